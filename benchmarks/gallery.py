"""`make bench-gallery`: a large file from a server on loopback, fetched and hashed, against curl and sha256sum.

The aim is not to be the bottleneck: networks are slower than loopback.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import markdown, report
from benchmarks.servers import ROOT
from gallery.download import discard, download
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.http import open_remote

AIM = 0.8
"""Of the speed of `curl -o f && sha256sum f`."""
CONNECTIONS = (1, 4)


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds that one file took."""

    curl: float
    sha256sum: float
    """Of the file that curl has just written."""
    manta: dict[int, float]
    """Fetched and hashed, by the number of connections."""

    def ratio(self, connections: int) -> float:
        """How many times as fast as curl and sha256sum one after the other."""
        return (self.curl + self.sha256sum) / self.manta[connections]


def main() -> None:
    options = _options()
    conditions = report.circumstances() | {"bytes": options.megabytes << 20, "rounds": options.rounds}
    with tempfile.TemporaryDirectory(prefix="manta-bench-", dir=options.folder) as name:
        source = Path(name) / "source"
        with source.open("wb") as file:
            for _ in range(options.megabytes):
                file.write(os.urandom(1 << 20))
        with serving(source) as url:
            rounds = [measure(url, Path(name)) for _ in range(options.rounds + 1)][1:]  # the first one warms up
    text = table(rounds, conditions)
    report.write("gallery", text, {**conditions, "rounds_s": [asdict(each) for each in rounds]}, options.out)
    print(text)


def table(rounds: Sequence[Round], conditions: Mapping[str, Any]) -> str:
    """The Markdown that goes into RESULTS.md."""
    size = conditions["bytes"]
    seconds = {
        "`curl -o f`": [each.curl for each in rounds],
        "`sha256sum f`": [each.sha256sum for each in rounds],
        "`curl -o f && sha256sum f`": [each.curl + each.sha256sum for each in rounds],
        **{_label(count): [each.manta[count] for each in rounds] for count in CONNECTIONS},
    }
    ratios = {_label(count): [each.ratio(count) for each in rounds] for count in CONNECTIONS}
    rows = []
    for name, times in seconds.items():
        ratio = markdown.spread(ratios[name]) if name in ratios else ""
        rows.append((name, markdown.spread(times), f"{size / 1e6 / median(times):.0f}", ratio))
    worst = min(median(each) for each in ratios.values())
    return "\n\n".join(
        (
            f"{report.headline(conditions)} {size / 1e9:.2f} GB, {len(rounds)} rounds.",
            markdown.table(("", "s", "MB/s", "speed ÷ curl and sha256sum"), "lrrr", rows),
            f"Aim: at least {AIM:g} of `curl -o f && sha256sum f`: {markdown.verdict(worst >= AIM)}.",
        )
    )


@contextmanager
def serving(source: Path) -> Iterator[str]:
    """The URL of a server of that file, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.sendfile_server", str(source)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}/file"
        finally:
            server.terminate()


def measure(url: str, folder: Path) -> Round:
    """One round: each way once. Raises AssertionError if the sums differ."""
    to = folder / "file"
    curl, _ = _timed("curl", "--silent", "--fail", "--output", str(to), url)
    sha256sum, said = _timed("sha256sum", str(to))
    to.unlink()
    manta = {}
    for connections in CONNECTIONS:
        manta[connections], found = asyncio.run(_fetch(url, to, connections))
        assert found == said.split()[0], f"sha256 is {found}, sha256sum says {said}"
    return Round(curl, sha256sum, manta)


def _timed(*command: str) -> tuple[float, str]:
    """Seconds that the command took, and what it printed."""
    started = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, done.stdout


async def _fetch(url: str, to: Path, connections: int) -> tuple[float, str]:
    """Seconds that the gallery's downloader took, and the sha256 that it found."""
    settings = DownloadSettings(allow=("127.0.0.1",), connections=connections)
    async with Network(settings) as network:
        started = time.perf_counter()
        remote = await open_remote(network, url)
        found = await download(remote, to, settings, report=lambda done, total: None)
        seconds = time.perf_counter() - started
    await discard(to)
    return seconds, found


def _label(connections: int) -> str:
    return f"Manta, {connections} connection{'s' if connections > 1 else ''}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gallery", description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="on the disk to write to; default: the system's temporary folder")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of RESULTS.md and results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
