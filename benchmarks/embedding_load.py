"""Concurrent embedding requests, timed from outside. The client is as bare as can be: it takes CPU from the servers."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ANSWER_LIMIT_S = 300
LINE_LIMIT = 2**24
"""Bytes that the reader holds back at most; an answer of 16 vectors has 0.1 MB."""


class RequestFailed(Exception):
    """The server refused, or broke off; the message holds its words. A run with failures measures nothing."""


@dataclass(slots=True)
class Load:
    """What a load came to."""

    seconds: float
    """From the first request to the last answer."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each request."""


def requests(url: str, model: str, inputs: Sequence[Sequence[str]]) -> list[bytes]:
    """Each request as the bytes of HTTP, for `send`."""
    made = []
    for texts in inputs:
        body = json.dumps({"model": model, "input": texts}).encode()
        head = (
            f"POST /embeddings HTTP/1.1\r\nHost: {urlsplit(url).netloc}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


async def send(url: str, payloads: Sequence[bytes], clients: int) -> Load:
    """All requests by so many clients, each with a connection of its own that is open before the clock starts.

    Raises a group of RequestFailed, and of OSError or asyncio.IncompleteReadError where a connection breaks.
    """
    host, port = urlsplit(url).hostname, urlsplit(url).port
    links = [await asyncio.open_connection(host, port, limit=LINE_LIMIT) for _ in range(min(clients, len(payloads)))]
    load = Load(0.0)
    left = iter(payloads)
    try:
        started = time.perf_counter()
        async with asyncio.timeout(ANSWER_LIMIT_S), asyncio.TaskGroup() as group:
            for reader, writer in links:
                group.create_task(_client(reader, writer, left, load.latencies))
        load.seconds = time.perf_counter() - started
    finally:
        for _, writer in links:
            writer.close()
    return load


async def ask(url: str, payload: bytes) -> bytes:
    """The body of one answer. Raises as `send`."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=LINE_LIMIT)
    try:
        writer.write(payload)
        return await _answer(reader)
    finally:
        writer.close()


async def _client(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, left: Iterator[bytes], latencies: list[float]
) -> None:
    for payload in left:
        started = time.perf_counter()
        writer.write(payload)
        await _answer(reader)
        latencies.append(time.perf_counter() - started)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """The body of the next answer on a connection; not parsed, which would take CPU from the servers."""
    status, *fields = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    headers = {name.lower(): value for name, _, value in (field.partition(b":") for field in fields)}
    if b"content-length" not in headers:
        raise RequestFailed(f"{status.decode()}: no Content-Length")
    body = await reader.readexactly(int(headers[b"content-length"]))
    if status.split()[1] != b"200":
        raise RequestFailed(f"{status.decode()}: {body[:500].decode(errors='replace')}")
    return body
