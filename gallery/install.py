"""Installation of a gallery entry: its files, checked, then its YAML, which makes it a model."""

import fcntl
import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.index import STARTER, Entry, File, find, read
from gallery.sources import source_of
from gallery.sources.base import require_space

Progress = Callable[[str, int, int], None]
"""Called with a file's name, its bytes so far, and its bytes in all (0: unknown)."""


_MODELS = ("*.yaml", "*.yml", "*.gguf")
"""Files that the server takes for models."""


def silent(name: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


def install(entry: Entry, models_path: Path, progress: Progress = silent) -> Path:
    """Install `entry` into `models_path` and return the path of its YAML. Blocks.

    Files that are there with the right sha256 are kept, so a second call downloads nothing. Of two processes that
    want the same file at once, one downloads it and the other waits. A YAML that exists is the user's and is left
    as it is. It is written last: a model that can be seen is complete. Raises ConfigInvalid, DownloadFailed and
    InsufficientStorage.
    """
    yaml_path = config_path(entry, models_path)
    targets = [(file, _inside(models_path, file.filename)) for file in entry.files]
    models_path.mkdir(parents=True, exist_ok=True)
    for file, path in targets:
        with _locked(models_path, file.filename):
            if not _is_there(file, path):
                _fetch(file, path, progress)
    _write_new(models_path, yaml_path, yaml.safe_dump(entry.config(), sort_keys=False, allow_unicode=True))
    return yaml_path


def install_starter(models_path: Path, name: str, progress: Progress = silent) -> Path | None:
    """Install that model of the starter gallery if `models_path` holds no model yet; an empty name asks for none.

    Returns the path of its YAML, or None where there was nothing to do. Raises as `install`, and ModelNotFound.
    """
    if not name or any(path for pattern in _MODELS for path in models_path.glob(pattern)):
        return None
    return install(find(read(STARTER), name), models_path, progress)


def config_path(entry: Entry, models_path: Path) -> Path:
    """Where the entry's YAML stands once it is installed."""
    return _inside(models_path, entry.name.replace("/", "__") + ".yaml")


def _inside(models_path: Path, name: str) -> Path:
    """The path of `name` in the models directory, which an index must not lead out of."""
    path = models_path / name
    if not path.resolve().is_relative_to(models_path.resolve()) or path.resolve() == models_path.resolve():
        raise ConfigInvalid(f"{name}: leads out of the models directory")
    return path


@contextmanager
def _locked(models_path: Path, filename: str) -> Iterator[None]:
    """Hold the file's lock, between processes and threads. The empty lock file stays: to remove it would race."""
    locks = models_path / ".locks"
    locks.mkdir(exist_ok=True)
    with (locks / filename.replace("/", "__")).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_there(file: File, path: Path) -> bool:
    return path.is_file() and (not file.sha256 or _sha256(path) == file.sha256.lower())


def _fetch(file: File, path: Path, progress: Progress) -> None:
    """Fetch to a `.partial` file, check it, then give it its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_name(path.name + ".partial")

    def report(done: int, total: int) -> None:
        require_space(path.parent, total - done)
        progress(file.filename, done, total)

    try:
        source_of(file.uri).fetch(file.uri, partial_path, report)
        if file.sha256 and (found := _sha256(partial_path)) != file.sha256.lower():
            raise DownloadFailed(f"{file.filename}: sha256 is {found}, the gallery says {file.sha256}")
        partial_path.replace(path)
    finally:
        partial_path.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_new(models_path: Path, path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, and not in place of another."""
    with _locked(models_path, path.name):
        if path.exists():
            return
        partial_path = path.with_name(path.name + ".partial")
        partial_path.write_text(text, encoding="utf-8")
        partial_path.replace(path)
