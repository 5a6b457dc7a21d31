"""How an installation shows on a terminal: a bar where someone watches, a few plain lines where it is a log."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TaskID, TextColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from gallery.status import Phase, Progress

_STEP = 25
"""Percent between two plain lines."""


@contextmanager
def shown(console: Console) -> Iterator[Progress]:
    """Progress that is drawn on `console` until the block ends."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Bars(*columns, console=console) as bars:
        yield _Bars(console, bars)


class _Bars:
    """A bar for each file."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self._console = console
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def phase(self, phase: Phase) -> None:
        """The bars show it."""

    def expect(self, sizes: Mapping[str, int]) -> None:
        for name, size in sizes.items():
            self._tasks[name] = self._bars.add_task(name, total=size or None)

    def at(self, filename: str, done: int, total: int) -> None:
        if filename not in self._tasks:
            self._tasks[filename] = self._bars.add_task(filename)
        self._bars.update(self._tasks[filename], completed=done, total=total or None)

    def warn(self, message: str) -> None:
        self._console.print(message, style="yellow", markup=False, soft_wrap=True)


class _Lines:
    """A line for every quarter of a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, int] = {}

    def phase(self, phase: Phase) -> None:
        """The files' lines say enough."""

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Each line has the size in it."""

    def at(self, filename: str, done: int, total: int) -> None:
        percent = 100 * done // total if total else 0
        step = percent - percent % _STEP
        if self._said.get(filename, -1) < step:
            self._said[filename] = step
            self._console.print(f"{filename}: {step}% of {total / 1e6:.0f} MB", soft_wrap=True)

    def warn(self, message: str) -> None:
        self._console.print(f"warning: {message}", markup=False, soft_wrap=True)
