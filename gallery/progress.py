"""How an installation shows on a terminal: a bar where someone watches, a few plain lines where it is a log."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from gallery.install import Progress as OnProgress

_STEP = 25
"""Percent between two plain lines."""


@contextmanager
def shown(console: Console) -> Iterator[OnProgress]:
    """A progress callback for `install`, drawn on `console` until the block ends."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name)
            bars.update(tasks[name], completed=done, total=total or None)

        yield draw


class _Lines:
    """Prints a line for every quarter of a file."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._said: dict[str, int] = {}

    def __call__(self, name: str, done: int, total: int) -> None:
        percent = 100 * done // total if total else 0
        step = percent - percent % _STEP
        if self._said.get(name, -1) < step:
            self._said[name] = step
            self._console.print(f"{name}: {step}% of {total / 1e6:.0f} MB", soft_wrap=True)
