"""Figures as Markdown."""

from benchmarks.markdown import spread, table, verdict


def test_columns_stand_on_their_sides() -> None:
    assert table(("who", "s"), "lr", [("a", "1"), ("b", "2")]) == "| who | s |\n|---|--:|\n| a | 1 |\n| b | 2 |"


def test_a_spread_is_median_least_and_most() -> None:
    assert spread([3.0, 1.0, 2.5]) == "2.50 (1.00–3.00)"


def test_an_aim_that_is_missed_stands_out() -> None:
    assert (verdict(met=True), verdict(met=False)) == ("met", "**missed**")
