"""Server-sent events: an answer that is sent as it is made.

The status is decided by what comes first: an error before anything was sent is an ordinary error response, one after
that is an event. A stream that is quiet sends comments, which clients skip, so that no proxy cuts it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.disconnect import unless_gone
from api.errors import client_error, error_body, let_go
from deployments.errors import ClientGone

DONE = b"data: [DONE]\n\n"

WAITING = b": waiting for the model\n\n"
"""Sent while nothing else is. A line that starts with a colon is a comment (HTML standard, 9.2.6)."""


def event(data: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: " + orjson.dumps(data) + b"\n\n"


EVENTS = {
    "text/event-stream": {
        "itemSchema": {
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {"type": "string", "description": "JSON; in the last event of OpenAI's streams [DONE]"},
                "event": {"type": "string"},
            },
        }
    }
}
"""OpenAPI's description (3.2: `itemSchema`) of an answer in events."""


def streamed(whole: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` of a route that answers `whole`, or as it is made when the client asks for `stream`."""
    return {200: {"model": whole, "content": EVENTS}}


class EventStream(Response):
    """Sends each item of `items`, made bytes by `render`, as it comes; `last` after them."""

    media_type = "text/event-stream"
    quiet = WAITING
    """The comment that is sent when there is nothing else to send."""
    last = DONE
    """What follows the last item."""

    def __init__(self, items: AsyncGenerator[Any, None], render: Callable[[Any], bytes], keepalive_s: float) -> None:
        self.items = items
        self.render_item = render
        self.keepalive_s = keepalive_s
        self.status_code = 200
        self.background = None
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})  # the latter: nginx

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wire = _Wire(send, self.raw_headers)
        try:
            await unless_gone(receive, self._answer(wire))
        except ClientGone:
            if not wire.started:
                raise
            # Else there is nobody to tell and no status to change; the request log has its 499.

    async def _answer(self, wire: "_Wire") -> None:
        async with aclosing(self.items) as items:  # or the replica works on for a client who has left
            comments = asyncio.create_task(wire.comment_when_quiet(self.keepalive_s, self.quiet))
            try:
                async for item in items:
                    if data := self.render_item(item):
                        await wire.write(data)
            except Exception as error:
                if not wire.started:
                    raise
                await wire.write(event(error_body(client_error(error))))
                let_go(error)
            finally:
                comments.cancel()
        await wire.end(self.last)


class _Wire:
    """The sending side of one response. Starts it with the first bytes."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self._send = send
        self._headers = headers
        self._turn = asyncio.Lock()
        self._last = asyncio.get_running_loop().time()
        self.started = False

    async def write(self, data: bytes) -> None:
        await self._body(data, more=True)

    async def end(self, data: bytes) -> None:
        await self._body(data, more=False)

    async def comment_when_quiet(self, interval_s: float, comment: bytes) -> None:
        """Sent when nothing else was for `interval_s`. A task beside the loop: a wait per item costs more."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._last + interval_s - now())
            if now() - self._last >= interval_s:
                await self.write(comment)

    async def _body(self, data: bytes, *, more: bool) -> None:
        async with self._turn:
            if not self.started:
                self.started = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._send({"type": "http.response.body", "body": data, "more_body": more})
            self._last = asyncio.get_running_loop().time()
