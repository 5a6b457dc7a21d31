"""Measured runs of `benchmarks.embeddings` as a Markdown table."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import markdown, report
from benchmarks.embedding_scenarios import AT_REST, Scenario
from benchmarks.report import percentile

OURS, LIMIT, PLAIN = "manta", "encode", "plain"
AIMS: Mapping[str, float] = {LIMIT: 0.9, "infinity": 1.0, PLAIN: 3.0}
"""Subject → the ratio of our inputs/s to its own that we want at `AIM_CLIENTS` and more."""
AIM_CLIENTS = 32
AT_REST_MS = 5.0
"""That one request at rest may take longer than the plain server's."""

COLUMNS = ("tokens x inputs x clients", "who", "inputs/s", "request p50 / p99, ms", "CPU ms/input", "Manta ÷ it")
ALIGN = "llrrrl"


@dataclass(slots=True)
class Run:
    """One scenario put to one subject in one round."""

    round: int
    scenario: str
    subject: str
    inputs: int
    seconds: float
    latencies: list[float]
    """Seconds of each request; none of the library's."""
    cpu_seconds: float | None

    @property
    def inputs_per_second(self) -> float:
        return self.inputs / self.seconds


def table(
    runs: Sequence[Run], scenarios: Sequence[Scenario], names: Sequence[str], conditions: Mapping[str, Any]
) -> str:
    """The Markdown that goes into RESULTS.md."""
    rows = []
    for scenario in scenarios:
        by_name = {name: _of(runs, scenario, name) for name in names}
        rows += [_row(scenario, name, by_name[name], by_name.get(OURS, [])) for name in names]
    left_out = (f"Left out: {name}: {reason}" for name, reason in conditions["left_out"].items())
    headlines = "\n".join((_headline(conditions), *left_out))
    return f"{headlines}\n\n{markdown.table(COLUMNS, ALIGN, rows)}\n\n{_at_rest(runs)}".strip()


def _headline(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in conditions["versions"].items())
    return (
        f"{report.headline(conditions)} {conditions['model']}, {conditions['threads']} thread, "
        f"{conditions['rounds']} rounds. {versions}."
    )


def _of(runs: Sequence[Run], scenario: Scenario, name: str) -> list[Run]:
    """One for each round."""
    return [run for run in runs if (run.scenario, run.subject) == (scenario.name, name)]


def _row(scenario: Scenario, name: str, runs: Sequence[Run], ours: Sequence[Run]) -> list[str]:
    latencies = [1000 * seconds for run in runs for seconds in run.latencies]
    cpu = [1000 * run.cpu_seconds / run.inputs for run in runs if run.cpu_seconds is not None]
    return [
        scenario.name,
        name,
        f"{statistics.median(run.inputs_per_second for run in runs):.1f}",
        f"{percentile(latencies, 50):.1f} / {percentile(latencies, 99):.0f}" if latencies else "",
        f"{statistics.median(cpu):.2f}" if cpu else "",
        _ratio(scenario, name, [a.inputs_per_second / b.inputs_per_second for a, b in zip(ours, runs, strict=False)]),
    ]


def _ratio(scenario: Scenario, name: str, ratios: Sequence[float]) -> str:
    """The median over the rounds, the worst and the best round, and the aim where there is one."""
    if name == OURS or not ratios:
        return ""
    if scenario.clients < AIM_CLIENTS or name not in AIMS:
        return markdown.spread(ratios)
    met = statistics.median(ratios) >= AIMS[name]
    return f"{markdown.spread(ratios)}, aim {AIMS[name]:g}: {markdown.verdict(met)}"


def _at_rest(runs: Sequence[Run]) -> str:
    """What our server adds to one small request when nobody else asks."""
    p50 = {
        name: percentile([1000 * seconds for run in found for seconds in run.latencies], 50)
        for name in (OURS, PLAIN)
        if (found := _of(runs, AT_REST, name))
    }
    if len(p50) < 2:
        return ""
    added = p50[OURS] - p50[PLAIN]
    return (
        f"One request at rest ({AT_REST.name}): {added:.1f} ms above the plain server at the median; aim under "
        f"{AT_REST_MS:g}: {markdown.verdict(added < AT_REST_MS)}."
    )
