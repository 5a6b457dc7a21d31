"""Concurrent streamed chat completions, timed from outside: what a client sees."""

import asyncio
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

STREAM_LIMIT_S = 900


class StreamFailed(Exception):
    """A stream broke, or was refused; the message holds the server's words. A run with failures measures nothing."""


@dataclass(slots=True)
class Stream:
    """One answer. Times are seconds of `time.perf_counter`."""

    started: float
    finished: float
    prompt_tokens: int | None
    """As the server counted; None where it doesn't say."""
    tokens: int
    """Tokens generated."""
    chunk_times: list[float] = field(default_factory=list)
    """When each chunk with text arrived."""
    text: str = ""

    @property
    def first_token_s(self) -> float:
        """Seconds from the request to the first text."""
        return self.chunk_times[0] - self.started

    @property
    def token_gap_s(self) -> float:
        """Mean seconds between two tokens. By tokens, not chunks: a server may send several tokens in one."""
        return (self.chunk_times[-1] - self.chunk_times[0]) / max(1, self.tokens - 1)

    @property
    def chunk_gaps_s(self) -> list[float]:
        return [later - earlier for earlier, later in itertools.pairwise(self.chunk_times)]


def connect(url: str, *, keep_alive: bool = False) -> aiohttp.ClientSession:
    """A client of one server, for use in `async with`; as many connections as there are streams.

    `keep_alive`: a request may use the connection of an earlier one. llama.cpp's server closes it after a stream.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=not keep_alive)
    return aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=STREAM_LIMIT_S))


async def stream_together(session: aiohttp.ClientSession, bodies: Sequence[dict[str, Any]]) -> list[Stream]:
    """Start all chats at once and read each to its end. Raises a group of StreamFailed and aiohttp.ClientError."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(stream_chat(session, body)) for body in bodies]
    return [task.result() for task in tasks]


async def stream_chat(session: aiohttp.ClientSession, body: dict[str, Any]) -> Stream:
    """One chat. While it runs its bytes are only kept, with the time: parsing would take CPU from the server.

    Raises StreamFailed and aiohttp.ClientError.
    """
    payload = json.dumps(body).encode()
    started = time.perf_counter()
    async with session.post(
        "/v1/chat/completions", data=payload, headers={"Content-Type": "application/json"}
    ) as answer:
        if answer.status != 200:
            raise StreamFailed(f"status {answer.status}: {(await answer.text())[:500]}")
        arrivals = [(time.perf_counter(), data) async for data in answer.content.iter_any()]
    return read(arrivals, started, body["max_tokens"])


def read(arrivals: Sequence[tuple[float, bytes]], started: float, max_tokens: int) -> Stream:
    """Make sense of a finished SSE body of `chat.completion.chunk` objects, given as (time, bytes) pairs.

    Tokens are counted by the server's usage; where it sends none, `finish_reason: length` means max_tokens, and
    otherwise each chunk with text is taken as a token. Raises StreamFailed for a stream that broke or was empty.
    """
    stream = Stream(started, arrivals[-1][0] if arrivals else started, prompt_tokens=None, tokens=0)
    usage: dict[str, Any] | None = None
    finish_reason: str | None = None
    for at, data in _events(arrivals):
        if data == b"[DONE]":
            break
        chunk = json.loads(data)
        if "error" in chunk:
            raise StreamFailed(f"error event: {chunk['error']}")
        usage = chunk.get("usage") or usage
        for choice in chunk["choices"]:
            finish_reason = choice["finish_reason"] or finish_reason
            if text := choice["delta"].get("content"):
                stream.text += text
                stream.chunk_times.append(at)
    if finish_reason is None or not stream.chunk_times:
        raise StreamFailed(f"the stream ended early, after {stream.text!r}")
    if usage:
        stream.prompt_tokens, stream.tokens = usage["prompt_tokens"], usage["completion_tokens"]
    else:
        stream.tokens = max_tokens if finish_reason == "length" else len(stream.chunk_times)
    return stream


def _events(arrivals: Iterable[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """The data of each SSE event, with the time at which its line was complete."""
    rest = b""
    for at, data in arrivals:
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                yield at, line.removeprefix(b"data:").strip()
