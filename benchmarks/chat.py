"""`make bench-chat`: tokens per second and first token of our server, llama.cpp's and llama-cpp-python's.

All servers run at the same time, on the same GGUF with the same number of threads; each scenario of each round is
put to one after the other, in an order that rotates, with the same prompts. RESULTS.md says how to read the figures.
"""

import argparse
import asyncio
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from benchmarks import report
from benchmarks.load import Stream, connect, stream_together
from benchmarks.runs import Run, as_json, table
from benchmarks.scenarios import SCENARIOS, Scenario, body
from benchmarks.servers import LAUNCHES, ROOT, Server, Setup, describe_peers, end_of, running
from deployments.backends.llama_library import has_broken_tiles

IDLE_WATCH_S = 5.0


def main() -> None:
    options = _options()
    # However the benchmark ends, the servers are stopped on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    given = dict(item.split("=", 1) for item in options.url)
    names = list(dict.fromkeys([*options.servers, *given]))
    scenarios = [scenario for scenario in SCENARIOS if options.scenario in scenario.name]
    with tempfile.TemporaryDirectory(prefix="manta-bench-") as folder, ExitStack() as stack:
        setup = Setup(
            options.model, options.model_name, options.peers, Path(folder), extra_buffers=not has_broken_tiles()
        )
        conditions = report.circumstances() | {"peers": describe_peers(setup.peers)}
        ready = [
            Server(name, given[name]) if name in given else stack.enter_context(_started(name, setup)) for name in names
        ]
        conditions["prompt_tokens"] = warm_up(ready, setup.model_name)
        conditions["idle_cores"] = idle_cores(ready)
        runs = list(measure(ready, scenarios, options.rounds, setup.model_name, options.tokens))
    conditions |= {
        "model": setup.model.name,
        "rounds": options.rounds,
        "tokens": options.tokens,
        "threads": setup.threads,
    }
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
                run = _run(
                    number, scenario.name, server, [[body(p, model, max_tokens) for p in wave] for wave in prompts]
                )
                speed = f"{run.tokens_per_second:7.1f} tokens/s"
                report.say(f"round {number + 1}/{rounds}  {scenario.name:18} {server.name:18} {speed}")
                yield run


def warm_up(ready: Sequence[Server], model: str) -> int:
    """One answer and one stream from each; the first loads the model where that waits for a request.

    Returns the prompt's tokens.

    Raises RuntimeError if the servers count them differently: then they don't render the same prompt.
    """
    request = body("What is a river?", model, 8)
    whole = {**request, "stream": False, "stream_options": None}
    counts: dict[str, int] = {}
    for server in ready:
        answer = httpx.post(f"{server.url}/v1/chat/completions", json=whole, timeout=300, trust_env=False)
        if answer.is_error:
            raise RuntimeError(f"{server.name}: status {answer.status_code}: {answer.text}")
        counts[server.name] = answer.json()["usage"]["prompt_tokens"]
        _run(0, "warm-up", server, [[request]])
    if len(set(counts.values())) > 1:
        raise RuntimeError(f"the servers count the same prompt's tokens differently: {counts}")
    return next(iter(counts.values()))


def idle_cores(ready: Sequence[Server], watch_s: float = IDLE_WATCH_S) -> dict[str, float]:
    """Cores that each server keeps busy while nobody asks it anything: it takes them from the one that is measured."""
    before = {server.name: server.cpu_seconds() for server in ready}
    time.sleep(watch_s)
    after = {server.name: server.cpu_seconds() for server in ready}
    return {
        name: round((after[name] or 0.0) - seconds, 2) / watch_s
        for name, seconds in before.items()
        if seconds is not None
    }


def _started(name: str, setup: Setup) -> AbstractContextManager[Server]:
    report.say(f"starting {name}")
    return running(name, partial(LAUNCHES[name], setup), setup.threads, setup.folder / f"{name}.log")


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
    try:
        seconds, streams = asyncio.run(send())
    except ExceptionGroup as error:
        error.add_note(f"{server.name}, {scenario}:\n{end_of(server.log) if server.log else server.url}")
        raise
    after = server.cpu_seconds()
    cpu_seconds = after - before if before is not None and after is not None else None
    return Run(number, scenario, server.name, seconds, cpu_seconds, streams)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chat", description=__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf", help="GGUF file")
    parser.add_argument("--model-name", default="smollm2-135m-instruct", help="its id in requests (for --url)")
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-bench", help="virtual environment of the peers")
    parser.add_argument("--servers", nargs="+", choices=LAUNCHES, default=list(LAUNCHES), help="servers to start")
    parser.add_argument(
        "--url",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="use a running server; any name, or one of the above",
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
