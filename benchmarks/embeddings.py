"""`make bench-embeddings`: inputs per second and latency of our server, the library, infinity-emb, a plain server.

All are up at the same time, with the same model and number of threads; each scenario of each round is put to one after
the other, in an order that rotates, with the same texts. RESULTS.md says how to read the figures.
"""

import argparse
import json
import math
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.embedding_runs import Run, table
from benchmarks.embedding_scenarios import SCENARIOS, Scenario, Texts
from benchmarks.embedding_subjects import SUBJECTS, Setup, Subject, Vectors
from benchmarks.servers import ROOT, ServerFailed

SAME = 0.9999
"""Cosine of two subjects' vectors of one text, at least: they run the same model with the same pooling."""
WARM_UP_ROUND = -1
OPTIONAL = ("infinity",)
"""Who is left out, with the reason said, when it can't be started: its packages may not install everywhere."""


class VectorsDiffer(Exception):
    """Two subjects don't compute the same: their speeds can't be compared."""


def main() -> None:
    options = _options()
    # However the benchmark ends, the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    scenarios = [scenario for scenario in SCENARIOS if options.scenario in scenario.name]
    texts = Texts(options.model)
    with tempfile.TemporaryDirectory(prefix="manta-bench-") as folder, ExitStack() as stack:
        setup = Setup(options.model, options.infinity, Path(folder))
        conditions = report.circumstances() | {"versions": _versions(options.infinity), "left_out": {}}
        ready: list[Subject] = []
        for name in options.subjects:
            report.say(f"starting {name}")
            try:
                ready.append(stack.enter_context(SUBJECTS[name](setup)))
            except (ServerFailed, FileNotFoundError) as error:
                if name not in OPTIONAL:
                    raise
                report.say(f"{name} is left out: {error}")
                conditions["left_out"][name] = str(error).splitlines()[-1]
        warm_up(ready, scenarios, texts)
        runs = list(measure(ready, scenarios, options.rounds, texts))
    conditions |= {"model": setup.model.name, "rounds": options.rounds, "threads": setup.threads}
    text = table(runs, scenarios, [subject.name for subject in ready], conditions)
    report.write("embeddings", text, {**conditions, "runs": [_as_json(run) for run in runs]}, options.out)
    print(text)


def measure(ready: Sequence[Subject], scenarios: Sequence[Scenario], rounds: int, texts: Texts) -> Iterator[Run]:
    """Rounds of scenarios of subjects, innermost the subjects, each time another one first."""
    for number in range(rounds):
        for place, scenario in enumerate(scenarios):
            asked = texts.make(scenario, number)
            first = (number + place) % len(ready)
            for subject in [*ready[first:], *ready[:first]]:
                run = _run(number, scenario, subject, asked)
                speed = f"{run.inputs_per_second:8.1f} inputs/s"
                report.say(f"round {number + 1}/{rounds}  {scenario.name:14} {subject.name:10} {speed}")
                yield run


def warm_up(ready: Sequence[Subject], scenarios: Sequence[Scenario], texts: Texts) -> None:
    """A few requests of each length, and the proof that all compute the same; the first loads our model.

    Raises VectorsDiffer.
    """
    for scenario in {scenario.tokens: scenario for scenario in scenarios}.values():
        asked = texts.make(scenario, WARM_UP_ROUND)[:4]
        vectors = {subject.name: subject.embed(asked[0]) for subject in ready}
        reference = vectors[ready[0].name]
        for name, found in vectors.items():
            if (worst := least_cosine(reference, found)) < SAME:
                raise VectorsDiffer(f"{name}'s vectors differ from {ready[0].name}'s: their cosine is {worst:.6f}")
        for subject in ready:
            subject.run(asked, clients=2)


def least_cosine(some: Vectors, others: Vectors) -> float:
    """Of the vectors at the same place."""
    return min(
        sum(a * b for a, b in zip(one, other, strict=True)) / (math.hypot(*one) * math.hypot(*other))
        for one, other in zip(some, others, strict=True)
    )


def _run(number: int, scenario: Scenario, subject: Subject, asked: Sequence[Sequence[str]]) -> Run:
    before = subject.cpu_seconds()
    load = subject.run(asked, scenario.clients)
    after = subject.cpu_seconds()
    cpu_seconds = after - before if before is not None and after is not None else None
    return Run(number, scenario.name, subject.name, scenario.inputs, load.seconds, load.latencies, cpu_seconds)


def _as_json(run: Run) -> dict[str, Any]:
    return asdict(run) | {"latencies": [round(seconds, 5) for seconds in run.latencies]}


def _versions(infinity: Path) -> dict[str, str]:
    """Of what runs the model, also in the environment of infinity-emb."""
    ours = {name: version(name) for name in ("ray", "sentence-transformers", "transformers", "torch")}
    names = ("infinity-emb", "sentence-transformers", "transformers", "torch")
    script = f"import importlib.metadata, json; print(json.dumps([importlib.metadata.version(n) for n in {names}]))"
    if not (infinity / "bin/infinity_emb").exists():
        return ours
    answer = subprocess.run([infinity / "bin/python", "-c", script], capture_output=True, text=True, check=True)
    infinity_emb, *others = json.loads(answer.stdout)
    built_on = ", ".join(f"{name} {number}" for name, number in zip(names[1:], others, strict=True))
    return ours | {"infinity-emb": f"{infinity_emb} ({built_on})"}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embeddings", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models/all-MiniLM-L6-v2", help="the model's directory")
    parser.add_argument("--infinity", type=Path, default=ROOT / ".venv-infinity", help="its virtual environment")
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--scenario", default="", help="only scenarios whose name holds this text")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of RESULTS.md and results/")
    options = parser.parse_args()
    if not (options.model / "tokenizer.json").is_file():
        parser.error(f"no model in {options.model}: `make bench-embeddings` installs it, or name one with --model")
    return options


if __name__ == "__main__":
    main()
