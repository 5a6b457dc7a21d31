"""`make bench-images`: images per second of our server against the pipeline called in-process, one image at a time.

Both are up at the same time, with the same model and number of threads; each number of clients of each round is put
to one after the other, another one first each time, with the same prompts and seeds.
"""

import argparse
import signal
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import markdown, report
from benchmarks.image_subjects import SUBJECTS, Job, Setup, Subject
from benchmarks.report import percentile
from benchmarks.servers import ROOT

OURS, ALONE = "manta", "pipeline"
SAME = 2
"""Of 255: how far a pixel of ours may be from the pipeline's."""
AIMS: Mapping[int, float] = {1: 0.97, 8: 1.0}
"""Clients → the ratio of our images/s to the pipeline's that we want."""
COLUMNS = ("clients", "who", "images/s", "request p50 / p99, ms", "CPU ms/image", "Manta ÷ it")
ALIGN = "rlrrrl"

PROMPTS = tuple(
    f"a {colour} {shape} on a {background} background"
    for colour in ("blue", "orange")
    for shape in ("square", "circle", "triangle")
    for background in ("white", "black")
)


class ImagesDiffer(Exception):
    """The server doesn't paint what the pipeline does: their speeds can't be compared."""


@dataclass(slots=True)
class Run:
    """Some clients of one subject in one round."""

    round: int
    clients: int
    subject: str
    images: int
    seconds: float
    latencies: list[float]
    """Seconds of each request; none of the pipeline's."""
    cpu_seconds: float | None

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds


def main() -> None:
    options = _options()
    # However the benchmark ends, the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    conditions = report.circumstances() | {"versions": {name: version(name) for name in ("ray", "diffusers", "torch")}}
    with tempfile.TemporaryDirectory(prefix="manta-bench-") as folder, ExitStack() as stack:
        setup = Setup(options.model, Path(folder), options.steps)
        subjects = []
        for name, start in SUBJECTS.items():
            report.say(f"starting {name}")
            subjects.append(stack.enter_context(start(setup)))
        compare(subjects)
        runs = list(measure(subjects, options.rounds, options.images))
    conditions |= {"model": setup.model.name, "rounds": options.rounds, "steps": setup.steps, "threads": setup.threads}
    text = table(runs, conditions)
    report.write("images", text, {**conditions, "runs": [asdict(run) for run in runs]}, options.out)
    print(text)


def jobs(count: int, seed: int) -> list[Job]:
    """So many, with the seeds that follow from the first one."""
    return [Job(PROMPTS[number % len(PROMPTS)], seed + number) for number in range(count)]


def compare(subjects: Sequence[Subject]) -> None:
    """Paint the same images once, which also loads our model. Raises ImagesDiffer."""
    for job in jobs(2, seed=1):
        first, *others = [subject.paint(job).astype(np.int16) for subject in subjects]
        for other in others:
            if first.shape != other.shape or (far := int(np.abs(first - other).max())) > SAME:
                how = f"{first.shape} and {other.shape} pixels" if first.shape != other.shape else f"by {far}"
                raise ImagesDiffer(f"{job.prompt}: the images differ, {how}")
    for subject in subjects:  # batches too have a first time
        subject.run(jobs(max(AIMS), seed=100), max(AIMS))


def measure(subjects: Sequence[Subject], rounds: int, images: int) -> Iterator[Run]:
    """Rounds of numbers of clients of subjects, innermost the subjects, each time another one first."""
    for number in range(rounds):
        for place, clients in enumerate(AIMS):
            asked = jobs(images, seed=10_000 * (number + 1) + 1000 * place)
            first = (number + place) % len(subjects)
            for subject in [*subjects[first:], *subjects[:first]]:
                run = _run(number, clients, subject, asked)
                speed = f"{run.images_per_second:6.2f} images/s"
                report.say(f"round {number + 1}/{rounds}  {clients} clients  {subject.name:10} {speed}")
                yield run


def table(runs: Sequence[Run], conditions: Mapping[str, Any]) -> str:
    """The Markdown that goes into RESULTS.md."""
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    setting = f"{conditions['model']}, {conditions['steps']} steps, {conditions['threads']} thread"
    headline = f"{report.headline(conditions)} {setting}, {conditions['rounds']} rounds. {versions}."
    rows = []
    for clients in AIMS:
        ours, alone = ([run for run in runs if (run.clients, run.subject) == (clients, name)] for name in (OURS, ALONE))
        rows += [_row(clients, OURS, ours, ""), _row(clients, ALONE, alone, _ratio(clients, ours, alone))]
    return f"{headline}\n\n{markdown.table(COLUMNS, ALIGN, rows)}"


def _run(number: int, clients: int, subject: Subject, asked: Sequence[Job]) -> Run:
    before = subject.cpu_seconds()
    load = subject.run(asked, clients)
    after = subject.cpu_seconds()
    cpu_seconds = after - before if before is not None and after is not None else None
    latencies = [round(seconds, 5) for seconds in load.latencies]
    return Run(number, clients, subject.name, len(asked), load.seconds, latencies, cpu_seconds)


def _row(clients: int, name: str, runs: Sequence[Run], ratio: str) -> list[str]:
    latencies = [1000 * seconds for run in runs for seconds in run.latencies]
    cpu = [1000 * run.cpu_seconds / run.images for run in runs if run.cpu_seconds is not None]
    return [
        str(clients),
        name,
        f"{statistics.median(run.images_per_second for run in runs):.2f}",
        f"{percentile(latencies, 50):.0f} / {percentile(latencies, 99):.0f}" if latencies else "",
        f"{statistics.median(cpu):.0f}" if cpu else "",
        ratio,
    ]


def _ratio(clients: int, ours: Sequence[Run], alone: Sequence[Run]) -> str:
    """The median over the rounds, the worst and the best round, and the aim."""
    ratios = [a.images_per_second / b.images_per_second for a, b in zip(ours, alone, strict=True)]
    met = statistics.median(ratios) >= AIMS[clients]
    return f"{markdown.spread(ratios)}, aim {AIMS[clients]:g}: {markdown.verdict(met)}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests/fixtures/tiny-sd-shapes", help="pipeline directory")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--images", type=int, default=32, help="of each round and number of clients")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of RESULTS.md and results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
