"""Limits on request bodies, in size and time, applied while they are read."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.settings import Settings
from deployments.errors import BodyTooLarge, BodyTooSlow

FORM_ROOM = 2**20
"""Bytes that a form may have around a file of the largest size: who reads the file says how large that is."""

PREFIXES: tuple[tuple[str, str, int], ...] = (
    ("/images/", "image_limit_mb", 0),
    ("/audio/transcriptions", "audio_limit_mb", 0),
    ("/audio/translations", "audio_limit_mb", 0),
    ("/files", "upload_limit_mb", FORM_ROOM),
)
"""Path, without `/v1`, → the setting that limits it, and bytes beyond. Every other path: `json_limit_mb`."""

PATIENCE_S = 60.0
"""Seconds of waiting for a body that its client has free."""
SLOWEST = 1024
"""Bytes for which it has a second more: a client that sends one now and then would hold a place for ever."""

LINGER_S = 2.0
"""A refused body is read and dropped for so long. Most clients look for an answer only when they have sent all."""


class BodyLimitMiddleware:
    """Refuses bodies over the limit of their path: before reading by Content-Length, else where the count passes it.

    Those that come in too slowly, too.
    """

    def __init__(self, app: ASGIApp, settings: Settings, *, patience: float = PATIENCE_S) -> None:
        """`patience`: seconds."""
        self.app = app
        self.patience = patience
        self.limits = [(prefix, getattr(settings, name) * 2**20 + room) for prefix, name, room in PREFIXES]
        self.json_limit = settings.json_limit_mb * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit(scope["path"])
        headers = dict(scope["headers"])
        if _length(headers) > limit:
            if b"expect" not in headers:  # with `Expect: 100-continue` the body isn't on its way yet
                await linger(_drop(receive))
            raise _too_large(limit)

        await self.app(scope, _Body(receive, limit, self.patience), send)

    def limit(self, path: str) -> int:
        """Bytes that a body for this path may have."""
        path = path.removeprefix("/v1")
        return next((limit for prefix, limit in self.limits if path.startswith(prefix)), self.json_limit)


class _Body:
    """A request's body, counted as it comes in."""

    def __init__(self, receive: Receive, limit: int, patience: float) -> None:
        self.receive = receive
        self.limit = limit
        self.patience = patience
        self.seen = 0
        """Bytes."""
        self.waited = 0.0
        """Seconds. What is done with the bytes takes none of them."""
        self.whole = False

    async def __call__(self) -> Message:
        if self.whole:  # what comes now is the client's leaving, when it likes
            return await self.receive()
        message = await self._in_time()
        self.whole = not message.get("more_body")
        self.seen += len(message.get("body", b""))
        if self.seen > self.limit:
            if not self.whole:
                await linger(_drop(self.receive))
            raise _too_large(self.limit)
        return message

    async def _in_time(self) -> Message:
        now = asyncio.get_running_loop().time
        began = now()
        try:
            async with asyncio.timeout(self.patience + self.seen / SLOWEST - self.waited):
                return await self.receive()
        except TimeoutError:
            raise BodyTooSlow(f"The body stopped, or came in too slowly: {self.seen} bytes so far.") from None
        finally:
            self.waited += now() - began


def _length(headers: dict[bytes, bytes]) -> int:
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() else 0


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit / 2**20:g} MiB, the limit of this route.")


async def linger(rest: Coroutine[Any, Any, None]) -> None:
    """Let `rest` read what is left of a refused body, for a while."""
    await asyncio.wait({task := asyncio.create_task(rest)}, timeout=LINGER_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)  # the client may have left


async def _drop(receive: Receive) -> None:
    while (await receive()).get("more_body"):
        pass
