"""Figures as Markdown: a table, a spread over rounds, and whether an aim is met."""

import statistics
from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """`align`: for each column `l` or `r`, the side that its cells stand on."""
    rules = "|".join({"l": "---", "r": "--:"}[side] for side in align)
    return "\n".join((_line(columns), f"|{rules}|", *map(_line, rows)))


def spread(values: Sequence[float]) -> str:
    """The median, the least and the most."""
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def verdict(met: bool) -> str:
    return "met" if met else "**missed**"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
