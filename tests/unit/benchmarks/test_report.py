"""RESULTS.md keeps what people wrote; figures replace their own section alone."""

import json
from pathlib import Path

import pytest

from benchmarks import report


@pytest.mark.parametrize(("percent", "value"), [(0, 1), (50, 2.5), (90, 3.7), (100, 4)])
def test_percentile_interpolates(percent: float, value: float) -> None:
    assert report.percentile([4, 1, 3, 2], percent) == pytest.approx(value)


def test_percentile_of_one() -> None:
    assert report.percentile([3.0], 99) == 3.0


def test_a_section_is_added_then_replaced() -> None:
    page = report.with_section("# Results\n\nHow to read.\n", "chat", "old")
    page += "\nWritten by hand.\n"
    page = report.with_section(page, "ingress", "other")
    replaced = report.with_section(page, "chat", "new")
    assert replaced == page.replace("old", "new")
    assert replaced.startswith("# Results\n\nHow to read.\n\n<!-- chat: begin -->\nnew\n<!-- chat: end -->\n")


def test_a_missing_end_marker_is_not_guessed() -> None:
    with pytest.raises(ValueError, match="no <!-- chat: end -->"):
        report.with_section("<!-- chat: begin -->\ntext", "chat", "new")


def test_write(tmp_path: Path) -> None:
    report.write("chat", "| table |", {"runs": [1]}, tmp_path)
    assert "| table |" in (tmp_path / "RESULTS.md").read_text()
    assert json.loads((tmp_path / "results" / "chat.json").read_text()) == {"runs": [1]}


def test_circumstances_are_json_and_name_the_machine() -> None:
    conditions = json.loads(json.dumps(report.circumstances()))
    assert conditions["cores"] >= 1
    assert conditions["cpu"]
    assert report.headline(conditions).startswith(conditions["time"])
