"""`make bench-ingress`: what HTTP, the ingress and the Serve handle add to the first token of a server at rest.

The same `echo` chat, which costs the engine nothing, over HTTP and straight into the model class in this process; the
difference is everything between the client's socket and the replica's method.
"""

import argparse
import asyncio
import http.client
import json
import signal
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks import markdown, report
from benchmarks.report import percentile
from benchmarks.servers import manta_with, running
from deployments.backends.base import ChatRequest
from deployments.backends.echo import Echo
from deployments.chat import ChatModel
from deployments.config import ModelConfig

ECHO = {"name": "echo", "backend": "echo"}
AIM_MS = 5.0
WARM_UP = 20
"""Requests that aren't counted: connections, imports and caches of both ingress replicas."""
PAUSE_S = 0.02
"""Between requests: at rest means that nothing of the last one is left to do."""
MESSAGES = [{"role": "user", "content": "hello"}]
MAX_TOKENS = 4


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server is stopped on the way out
    conditions = report.circumstances() | {"requests": options.requests}
    with tempfile.TemporaryDirectory(prefix="manta-bench-") as name:
        folder = Path(name)
        direct = asyncio.run(_first_tokens_direct(folder, options.requests))
        launch = partial(manta_with, ECHO, folder / "models", 1)
        with running("manta", launch, 1, folder / "manta.log") as server:
            served = _first_tokens_http(server.url, options.requests)
    text = table(served, direct, conditions)
    report.write("ingress", text, {**conditions, "http_ms": served, "direct_ms": direct}, options.out)
    print(text)


def table(served: list[float], direct: list[float], conditions: dict[str, Any]) -> str:
    """The Markdown that goes into RESULTS.md. Times in ms."""
    added = [percentile(served, percent) - percentile(direct, percent) for percent in (50, 90)]
    times = {
        "over HTTP": [percentile(served, percent) for percent in (50, 90)],
        "in the replica alone": [percentile(direct, percent) for percent in (50, 90)],
        "added by HTTP, ingress and handle": added,
    }
    rows = [(name, f"{p50:.2f}", f"{p90:.2f}") for name, (p50, p90) in times.items()]
    return "\n\n".join(
        (
            f"{report.headline(conditions)} {conditions['requests']} requests, one at a time.",
            markdown.table(("first token of `echo`", "p50, ms", "p90, ms"), "lrr", rows),
            f"Aim: under {AIM_MS:g} ms added at the median: {markdown.verdict(added[0] < AIM_MS)}.",
        )
    )


def _first_tokens_http(url: str, requests: int) -> list[float]:
    """Milliseconds from sending a request to its first text, over a connection that is open.

    By a blocking client: an event loop of our own would add its share to the figure.
    """
    body = json.dumps({"model": "echo", "messages": MESSAGES, "stream": True, "max_tokens": MAX_TOKENS})
    address = urlsplit(url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
    times = []
    for _ in range(WARM_UP + requests):
        started = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        arrivals = [
            time.perf_counter()
            for line in connection.getresponse()
            if b'"content":"' in line and b'"content":""' not in line
        ]
        times.append(1000 * (arrivals[0] - started))
        time.sleep(PAUSE_S)
    connection.close()
    return times[WARM_UP:]


async def _first_tokens_direct(folder: Path, requests: int) -> list[float]:
    """The same of the model class, called in this process without Ray."""
    config = ModelConfig(name="echo", backend="echo")
    model = ChatModel(Echo.load(config, folder, lambda fraction: None), config, folder)
    times = []
    for _ in range(WARM_UP + requests):
        started = time.perf_counter()
        arrivals = [
            time.perf_counter()
            async for group in model.stream_chat(ChatRequest(messages=MESSAGES, max_tokens=MAX_TOKENS))
            if any(delta.text for delta in group.deltas)
        ]
        times.append(1000 * (arrivals[0] - started))
        await asyncio.sleep(PAUSE_S)
    return times[WARM_UP:]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ingress", description=__doc__)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--out", type=Path, default=report.FOLDER, help="folder of RESULTS.md and results/")
    return parser.parse_args()


if __name__ == "__main__":
    main()
