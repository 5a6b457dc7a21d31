"""`make bench-chat`: tokens per second and time to first token of our server against llama.cpp's and llama-cpp-python's.

All servers run at the same time, on the same GGUF with the same number of threads; each scenario of each round is
put to one after the other, in an order that rotates, with the same prompts. `benchmarks/RESULTS.md` says how to read it.
"""

import argparse
import asyncio
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks import report, servers
from benchmarks.load import Stream, connect, stream_together
from benchmarks.report import percentile
from benchmarks.servers import LAUNCHES, ROOT, Server, Setup, running

OURS = "manta"
AIMS: Mapping[str, tuple[float, int]] = {"llama.cpp": (0.95, 1), "llama-cpp-python": (1.3, 8)}
"""Peer → the ratio of our tokens/s to its own that we want, and from how many streams on. For short prompts."""

IDLE_WATCH_S = 5.0

WORDS = (
    "river stone light garden winter paper music window mountain silver letter bridge morning forest color table "
    "engine island market summer shadow village ocean history number doctor picture machine farmer teacher castle "
    "pocket planet corner kitchen yellow travel gentle narrow simple ancient hidden broken golden distant quiet "
    "bright heavy strange little strong early happy future second always between through around beyond against "
    "build carry follow gather listen measure notice protect remember share travel visit wonder write draw"
).split()


@dataclass(frozen=True, slots=True)
class Scenario:
    name: str
    words: int
    """Random words in the prompt; 970 make about 1,000 tokens with the chat template."""
    streams: int
    """At a time."""
    repeats: int = 1
    """How often in a round: one short stream alone is over too soon to time."""

    def prompts(self, round_number: int) -> list[list[str]]:
        """Per repeat, one prompt per stream. All differ from the first word on: prefix caches find the template alone."""
        dice = random.Random(f"{self.name}, round {round_number}")
        return [
            [f"{' '.join(dice.choices(WORDS, k=self.words))}: a story with these words." for _ in range(self.streams)]
            for _ in range(self.repeats)
        ]


SCENARIOS = (
    Scenario("short x 1", words=16, streams=1, repeats=4),
    Scenario("short x 8", words=16, streams=8),
    Scenario("short x 32", words=16, streams=32),
    Scenario("1,000 tokens x 1", words=970, streams=1),
    Scenario("1,000 tokens x 4", words=970, streams=4),
)


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


def main() -> None:
    options = _options()
    # However the benchmark ends, the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = dict(item.split("=", 1) for item in options.url)
    names = list(dict.fromkeys([*options.servers, *given]))
    scenarios = [scenario for scenario in SCENARIOS if options.scenario in scenario.name]
    with tempfile.TemporaryDirectory(prefix="manta-bench-") as folder, ExitStack() as stack:
        setup = Setup(options.model, options.model_name, options.peers, Path(folder))
        conditions = report.circumstances() | {"peers": report.peer_versions(setup.peers)}
        ready: list[Server] = []
        for name in names:
            _say(f"starting {name}" if name not in given else f"using {name} at {given[name]}")
            if name in given:
                ready.append(Server(name, given[name]))
                continue
            launch = partial(LAUNCHES[name], setup)
            ready.append(stack.enter_context(running(name, launch, setup.threads, setup.folder / f"{name}.log")))
        conditions["prompt_tokens"] = warm_up(ready, setup.model_name)
        conditions["idle_cores"] = idle_cores(ready)
        runs = list(measure(ready, scenarios, options.rounds, setup.model_name, options.tokens))
    conditions |= {"model": setup.model.name, "rounds": options.rounds, "tokens": options.tokens, "threads": setup.threads}
    text = table(runs, scenarios, names, conditions)
    report.write("chat", text, {**conditions, "runs": [as_json(run) for run in runs]}, options.out)
    print(text)


def measure(
    ready: Sequence[Server], scenarios: Sequence[Scenario], rounds: int, model: str, max_tokens: int
) -> Iterator[Run]:
    """Rounds of scenarios of servers, innermost the servers, each time another one first."""
    for number in range(rounds):
        for place, scenario in enumerate(scenarios):
            prompts = scenario.prompts(number)
            first = (number + place) % len(ready)
            for server in [*ready[first:], *ready[:first]]:
                run = _run(number, scenario.name, server, [[body(p, model, max_tokens) for p in wave] for wave in prompts])
                _say(f"round {number + 1}/{rounds}  {scenario.name:18} {server.name:18} {run.tokens_per_second:7.1f} tokens/s")
                yield run


def body(prompt: str, model: str, max_tokens: int) -> dict[str, Any]:
    """Greedy, no penalties, and exactly `max_tokens` long on each of the servers."""
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": max_tokens,
        "temperature": 0,
        "repeat_penalty": 1.0,  # llama-cpp-python's default is 1.1
        "ignore_eos": True,
        "min_tokens": max_tokens,  # the same, to llama-cpp-python
    }


def warm_up(ready: Sequence[Server], model: str) -> int:
    """One answer from each, which loads the model where that waits for a request. Returns the prompt's tokens.

    Raises RuntimeError if the servers count them differently: then they don't render the same prompt.
    """
    request = {**body("What is a river?", model, 8), "stream": False, "stream_options": None}
    counts: dict[str, int] = {}
    for server in ready:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=request, timeout=300, trust_env=False)
        if answer.is_error:
            raise RuntimeError(f"{server.name}: status {answer.status_code}: {answer.text}")
        counts[server.name] = answer.json()["usage"]["prompt_tokens"]
    if len(set(counts.values())) > 1:
        raise RuntimeError(f"the servers count the same prompt's tokens differently: {counts}")
    return next(iter(counts.values()))


def idle_cores(ready: Sequence[Server]) -> dict[str, float]:
    """Cores that each server keeps busy while nobody asks it anything: it takes them from the one that is measured."""
    before = {server.name: server.cpu_seconds() for server in ready}
    time.sleep(IDLE_WATCH_S)
    after = {server.name: server.cpu_seconds() for server in ready}
    return {
        name: round((after[name] or 0.0) - seconds, 2) / IDLE_WATCH_S
        for name, seconds in before.items()
        if seconds is not None
    }


def table(
    runs: Sequence[Run], scenarios: Iterable[Scenario], names: Sequence[str], conditions: Mapping[str, Any]
) -> str:
    """The Markdown that goes into RESULTS.md."""
    lines = [
        _headline(conditions),
        "",
        "| prompts x streams | server | tokens/s | first token p50 / p99, ms | token gap p50, ms "
        "| chunk gap p50 / p99, ms | CPU ms/token | Manta ÷ it |",
        "|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for scenario in scenarios:
        by_server = {name: [run for run in runs if (run.scenario, run.server) == (scenario.name, name)] for name in names}
        lines += [_row(scenario, name, by_server[name], by_server.get(OURS, [])) for name in names]
    return "\n".join(lines)


def _headline(conditions: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in (conditions["versions"] | conditions["peers"]).items())
    idle = ", ".join(f"{name} {cores:.0%}" for name, cores in conditions["idle_cores"].items())
    return (
        f"{conditions['time']}, commit `{conditions['commit']}`, {conditions['cpu']}, {conditions['cores']} cores, "
        f"load {conditions['load_before']:.1f} before. {conditions['model']}, {conditions['threads']} thread, "
        f"{conditions['tokens']} tokens out, {conditions['rounds']} rounds. {versions}. Idle, of one core: {idle or 'not watched'}."
    )


def _row(scenario: Scenario, name: str, runs: Sequence[Run], ours: Sequence[Run]) -> str:
    streams = [stream for run in runs for stream in run.streams]
    first = [1000 * stream.first_token_s for stream in streams]
    gaps = [1000 * stream.token_gap_s for stream in streams]
    chunk_gaps = [1000 * gap for stream in streams for gap in stream.chunk_gaps_s] or [0.0]
    cpu = [1000 * run.cpu_seconds / run.tokens for run in runs if run.cpu_seconds is not None]
    cells = [
        scenario.name,
        name,
        f"{statistics.median(run.tokens_per_second for run in runs):.1f}",
        f"{percentile(first, 50):.0f} / {percentile(first, 99):.0f}",
        f"{percentile(gaps, 50):.1f}",
        f"{percentile(chunk_gaps, 50):.1f} / {percentile(chunk_gaps, 99):.0f}",
        f"{statistics.median(cpu):.1f}" if cpu else "",
        _ratio(scenario, name, [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, runs, strict=False)]),
    ]
    return f"| {' | '.join(cells)} |"


def _ratio(scenario: Scenario, name: str, ratios: Sequence[float]) -> str:
    """The median over the rounds, the worst and the best round, and the aim where there is one."""
    if name == OURS or not ratios:
        return ""
    median = statistics.median(ratios)
    text = f"{median:.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
    aim, from_streams = AIMS.get(name, (0.0, sys.maxsize))
    if scenario.streams < from_streams:
        return text
    return f"{text}, aim {aim}: {'met' if median >= aim else '**missed**'}"


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


def _run(number: int, scenario: str, server: Server, waves: Sequence[Sequence[dict[str, Any]]]) -> Run:
    async def send() -> tuple[float, list[Stream]]:
        seconds, streams = 0.0, []
        async with connect(server.url) as session:
            for wave in waves:
                started = time.perf_counter()
                streams += await stream_together(session, wave)
                seconds += time.perf_counter() - started
        return seconds, streams

    before = server.cpu_seconds()
    seconds, streams = asyncio.run(send())
    after = server.cpu_seconds()
    cpu_seconds = after - before if before is not None and after is not None else None
    return Run(number, scenario, server.name, seconds, cpu_seconds, streams)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf", help="GGUF file")
    parser.add_argument("--model-name", default="smollm2-135m-instruct", help="its id in requests (for --url)")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-bench", help="virtual environment of the peers")
    parser.add_argument("--servers", nargs="+", choices=LAUNCHES, default=list(LAUNCHES), help="servers to start")
    parser.add_argument(
        "--url", action="append", default=[], metavar="NAME=URL", help="use a running server; any name, or one of the above"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=64, help="length of each answer")
    parser.add_argument("--scenario", default="", help="only scenarios whose name holds this text")
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of RESULTS.md and results/")
    options = parser.parse_args()
    if not options.model.is_file():
        parser.error(f"no {options.model}: `make run` installs it, or name another with --model")
    if not (options.peers / "bin/python").is_file():
        parser.error(f"no virtual environment in {options.peers}: `make bench-chat` makes it, or name one with --peers")
    return options


if __name__ == "__main__":
    main()
