"""The benchmark of images: its jobs, its turns, and its table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.embedding_load import Load
from benchmarks.image_subjects import Job, Pixels, Setup, launch
from benchmarks.images import AIMS, ImagesDiffer, Run, compare, jobs, measure, table
from deployments.config_file import load_yaml, parse
from tests.unit.benchmarks.conftest import CIRCUMSTANCES

CONDITIONS = {
    **CIRCUMSTANCES,
    "model": "m",
    "steps": 15,
    "threads": 1,
    "rounds": 2,
    "versions": {"torch": "2"},
}


class FakeSubject:
    """Takes a second for everything."""

    def __init__(self, name: str, shade: int = 0, size: int = 4) -> None:
        self.name = name
        self.image = np.full((size, size, 3), shade, np.uint8)
        self.asked: list[Sequence[Job]] = []

    def run(self, jobs: Sequence[Job], clients: int) -> Load:
        self.asked.append(jobs)
        return Load(1.0, [0.5] * len(jobs))

    def paint(self, job: Job) -> Pixels:
        return self.image

    def cpu_seconds(self) -> float | None:
        return None


def test_all_are_asked_the_same_in_turns_and_never_the_same_again() -> None:
    subjects = [FakeSubject("a"), FakeSubject("b")]
    found = list(measure(subjects, rounds=2, images=50))
    assert [(run.clients, run.subject) for run in found] == [
        (1, "a"),
        (1, "b"),
        (8, "b"),
        (8, "a"),
        (1, "b"),
        (1, "a"),
        (8, "a"),
        (8, "b"),
    ]
    assert subjects[0].asked == subjects[1].asked
    seeds = [job.seed for asked in subjects[0].asked for job in asked]
    assert len(seeds) == len(set(seeds)) == 200
    assert found[0].images_per_second == 50


def test_subjects_that_paint_something_else_are_not_compared() -> None:
    compare([FakeSubject("a", 100), FakeSubject("b", 102)])
    with pytest.raises(ImagesDiffer, match="by 3"):
        compare([FakeSubject("a", 100), FakeSubject("b", 103)])
    with pytest.raises(ImagesDiffer, match="pixels"):
        compare([FakeSubject("a"), FakeSubject("b", size=8)])


def runs(clients: int, subject: str, *seconds: float) -> list[Run]:
    return [Run(i, clients, subject, 10, each, [0.4] * 10, cpu_seconds=4.0) for i, each in enumerate(seconds)]


def test_table() -> None:
    measured = [
        *runs(1, "manta", 5, 5),
        *runs(1, "pipeline", 5, 4.5),
        *runs(8, "manta", 4, 4),
        *runs(8, "pipeline", 5, 6),
    ]
    text = table(measured, CONDITIONS)
    assert "| 1 | manta | 2.00 | 400 / 400 | 400 |  |" in text
    assert "0.95 (0.90–1.00), aim 0.97: **missed** |" in text
    assert "1.38 (1.25–1.50), aim 1: met |" in text


def test_launch(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    models = Path(launch(Setup(tmp_path / "m", tmp_path), 8080).environ["MODELS_PATH"])
    (config,) = models.glob("*.yaml")
    assert parse(load_yaml(config.read_text())).parameters.model == "m"
    assert (models / "m").is_dir()


def test_jobs_fill_the_clients() -> None:
    assert [job.seed for job in jobs(3, seed=7)] == [7, 8, 9]
    assert max(AIMS) <= 12
