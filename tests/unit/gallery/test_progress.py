"""Progress on a terminal and in a log."""

import io

from rich.console import Console

from gallery.progress import shown
from gallery.status import Phase


def test_a_log_gets_a_line_for_each_quarter() -> None:
    out = io.StringIO()
    with shown(Console(file=out)) as progress:
        progress.phase(Phase.DOWNLOADING)
        progress.expect({"w.gguf": 100_000_000})
        for done in range(0, 101_000_000, 1_000_000):
            progress.at("w.gguf", done, 100_000_000)
        progress.warn("[odd] key")
    *lines, last = out.getvalue().splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"{percent}% of 100 MB" for percent in (0, 25, 50, 75, 100)]
    assert last == "warning: [odd] key"


def test_a_terminal_gets_a_bar_for_each_file() -> None:
    out = io.StringIO()
    with shown(Console(file=out, force_terminal=True, width=100)) as progress:
        progress.expect({"known.gguf": 2_000_000, "unknown.gguf": 0})
        progress.at("known.gguf", 2_000_000, 2_000_000)
        progress.at("late.gguf", 1, 0)
        progress.warn("odd key")
    text = out.getvalue()
    assert all(name in text for name in ("known.gguf", "unknown.gguf", "late.gguf", "2.0/2.0 MB", "odd key"))
