"""Measured runs of `benchmarks.chat`, and what becomes of them: a Markdown table and JSON."""

import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks import markdown, report
from benchmarks.load import Stream
from benchmarks.report import percentile
from benchmarks.scenarios import Scenario

OURS = "manta"
AIMS: Mapping[str, tuple[float, int]] = {"llama.cpp": (0.95, 1), "llama-cpp-python": (1.3, 8), "vllm": (0.9, 16)}
"""Peer → the ratio of our tokens/s to its own that we want, and from how many streams on."""


COLUMNS = (
    "prompts x streams",
    "server",
    "tokens/s",
    "first token p50 / p99, ms",
    "token gap p50, ms",
    "chunk gap p50 / p99, ms",
    "CPU ms/token",
    "Manta ÷ it",
)
ALIGN = "ll" + "r" * (len(COLUMNS) - 3) + "l"


@dataclass(slots=True)
class Run:
    """One scenario put to one server in one round."""

    round: int
    scenario: str
    server: str
    seconds: float
    """While streams ran."""
    cpu_seconds: float | None
    """Of all the server's processes, over that time."""
    streams: list[Stream]

    @property
    def tokens(self) -> int:
        return sum(stream.tokens for stream in self.streams)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def table(
    runs: Sequence[Run], scenarios: Iterable[Scenario], names: Sequence[str], conditions: Mapping[str, Any]
) -> str:
    """The Markdown that goes into RESULTS.md."""
    rows = []
    for scenario in scenarios:
        by_server = {
            name: [run for run in runs if (run.scenario, run.server) == (scenario.name, name)] for name in names
        }
        rows += [_row(scenario, name, by_server[name], by_server.get(OURS, [])) for name in names]
    return f"{_headline(conditions)}\n\n{markdown.table(COLUMNS, ALIGN, rows)}"


def _headline(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(
        f"{name} {number}" for name, number in (conditions["versions"] | conditions["peers"]["versions"]).items()
    )
    idle = ", ".join(f"{name} {cores:.0%}" for name, cores in conditions["idle_cores"].items())
    return (
        f"{report.headline(conditions)} {conditions['model']}, {conditions['threads']} thread, "
        f"{conditions['tokens']} tokens out, {conditions['rounds']} rounds. {versions}. "
        f"CPU of one core while idle: {idle or 'not watched'}."
    )


def _row(scenario: Scenario, name: str, runs: Sequence[Run], ours: Sequence[Run]) -> list[str]:
    streams = [stream for run in runs for stream in run.streams]
    first = [1000 * stream.first_token_s for stream in streams]
    gaps = [1000 * stream.token_gap_s for stream in streams]
    chunk_gaps = [1000 * gap for stream in streams for gap in stream.chunk_gaps_s] or [0.0]
    cpu = [1000 * run.cpu_seconds / run.tokens for run in runs if run.cpu_seconds is not None]
    return [
        scenario.name,
        name,
        f"{statistics.median(run.tokens_per_second for run in runs):.1f}",
        f"{percentile(first, 50):.0f} / {percentile(first, 99):.0f}",
        f"{percentile(gaps, 50):.1f}",
        f"{percentile(chunk_gaps, 50):.1f} / {percentile(chunk_gaps, 99):.0f}",
        f"{statistics.median(cpu):.1f}" if cpu else "",
        _ratio(scenario, name, [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, runs, strict=False)]),
    ]


def _ratio(scenario: Scenario, name: str, ratios: Sequence[float]) -> str:
    """The median over the rounds, the worst and the best round, and the aim where there is one."""
    if name == OURS or not ratios:
        return ""
    aim, from_streams = AIMS.get(name, (0.0, sys.maxsize))
    if scenario.streams < from_streams:
        return markdown.spread(ratios)
    return f"{markdown.spread(ratios)}, aim {aim:g}: {markdown.verdict(statistics.median(ratios) >= aim)}"


def as_json(run: Run) -> dict[str, Any]:
    """All that was measured; times of a stream in seconds from its request."""
    return {
        **{key: value for key, value in asdict(run).items() if key != "streams"},
        "streams": [
            {
                "prompt_tokens": stream.prompt_tokens,
                "tokens": stream.tokens,
                "finished": round(stream.finished - stream.started, 4),
                "chunks": [round(at - stream.started, 4) for at in stream.chunk_times],
            }
            for stream in run.streams
        ],
    }
