"""The event stream: what decides the status, keep-alives, errors on the way, and that it is always closed."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from api.answers.chat import ChatAnswer
from api.sse import DONE, WAITING, EventStream
from deployments.backends.base import Delta, DeltaGroup, Usage
from deployments.errors import ClientGone, EngineError

SOON = 5.0
"""Seconds within which what must happen does."""


class Wire:
    """The server's side of one ASGI response."""

    def __init__(self) -> None:
        self.messages: list[Any] = []
        self.arrived = asyncio.Event()
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        self.messages.append(message)
        self.arrived.set()

    async def next_message(self) -> Any:
        """The last message, once another one came."""
        await asyncio.wait_for(self.arrived.wait(), SOON)
        self.arrived.clear()
        return self.messages[-1]

    @property
    def bodies(self) -> list[bytes]:
        return [message["body"] for message in self.messages if message["type"] == "http.response.body"]


class Upstream:
    """Items that a test releases one by one."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.began = asyncio.Event()
        self.closed = False

    async def items(self) -> AsyncGenerator[bytes, None]:
        self.began.set()
        try:
            while (item := await self.queue.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True


def serve(upstream: Upstream, wire: Wire, keepalive_s: float = 60) -> "asyncio.Task[None]":
    stream = EventStream(upstream.items(), lambda item: item, keepalive_s)
    return asyncio.create_task(stream({"type": "http"}, wire.receive, wire.send))


async def test_an_item_is_sent_as_it_comes_and_in_one_piece() -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire)
    for item in (b"one", b"two"):
        upstream.queue.put_nowait(item)
        while not wire.bodies or wire.bodies[-1] != item:
            await wire.next_message()
    assert not upstream.closed
    upstream.queue.put_nowait(None)
    await asyncio.wait_for(task, SOON)
    assert wire.messages[0]["status"] == 200
    assert wire.bodies == [b"one", b"two", DONE]
    assert [message.get("more_body") for message in wire.messages[1:]] == [True, True, False]
    assert upstream.closed


async def test_an_early_error_is_no_stream() -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire)
    upstream.queue.put_nowait(EngineError("bad grammar"))
    with pytest.raises(EngineError, match="bad grammar"):
        await asyncio.wait_for(task, SOON)
    assert wire.messages == []
    assert upstream.closed


async def test_a_quiet_start_sends_comments_then_the_answer() -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire, keepalive_s=0.01)
    while wire.bodies.count(WAITING) < 2:
        await wire.next_message()
    upstream.queue.put_nowait(b"one")
    upstream.queue.put_nowait(None)
    await asyncio.wait_for(task, SOON)
    assert wire.messages[0]["status"] == 200
    assert [body for body in wire.bodies if body != WAITING] == [b"one", DONE]
    assert wire.bodies[0] == WAITING


async def test_a_quiet_middle_sends_comments_too() -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire, keepalive_s=0.01)
    upstream.queue.put_nowait(b"one")
    while b"one" not in wire.bodies or wire.bodies[-1] != WAITING:
        await wire.next_message()
    upstream.queue.put_nowait(None)
    await asyncio.wait_for(task, SOON)
    assert wire.bodies[-1] == DONE


@pytest.mark.parametrize("first", [b"one", WAITING])
async def test_a_late_error_is_an_event(first: bytes) -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire, keepalive_s=0.01)
    if first != WAITING:
        upstream.queue.put_nowait(first)
    while first not in wire.bodies:
        await wire.next_message()
    upstream.queue.put_nowait(EngineError("out of memory"))
    await asyncio.wait_for(task, SOON)
    error, done = [body for body in wire.bodies if body != WAITING][-2:]
    assert error == (
        b'data: {"error":{"message":"out of memory","type":"server_error","param":null,"code":"engine_error"}}\n\n'
    )
    assert done == DONE


@pytest.mark.parametrize("started", [True, False])
async def test_a_client_that_leaves_closes_the_source(started: bool) -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire)
    await asyncio.wait_for(upstream.began.wait(), SOON)
    if started:
        upstream.queue.put_nowait(b"one")
        while b"one" not in wire.bodies:
            await wire.next_message()
    wire.left.set()
    if started:
        await asyncio.wait_for(task, SOON)
    else:
        with pytest.raises(ClientGone):
            await asyncio.wait_for(task, SOON)
    assert upstream.closed
    assert DONE not in wire.bodies


async def test_cancellation_closes_the_source() -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire)
    upstream.queue.put_nowait(b"one")
    while b"one" not in wire.bodies:
        await wire.next_message()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upstream.closed


async def test_an_empty_piece_is_not_sent() -> None:
    upstream, wire = Upstream(), Wire()
    task = serve(upstream, wire)
    for item in (b"", b"one", b"", None):
        upstream.queue.put_nowait(item)
    await asyncio.wait_for(task, SOON)
    assert wire.bodies == [b"one", DONE]


def test_a_group_is_one_piece() -> None:
    answer = ChatAnswer("m", include_usage=True)
    piece = answer.events(DeltaGroup([Delta(0, "a"), Delta(1, "b"), Delta(0, "", "stop")], Usage(1, 2)))
    assert piece.count(b"data: ") == 6  # role and text twice, the finish, the usage
    assert answer.events(DeltaGroup([Delta(0, token_ids=[7])])) == b""
