"""Limits on request bodies, applied while they are read."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.settings import Settings
from deployments.errors import BodyTooLarge

PREFIXES: tuple[tuple[str, str], ...] = (
    ("/images/", "image_limit_mb"),
    ("/audio/transcriptions", "audio_limit_mb"),
    ("/audio/translations", "audio_limit_mb"),
    ("/files", "upload_limit_mb"),
)
"""Path, without `/v1`, → the setting that limits it. Every other path: `json_limit_mb`."""

LINGER_S = 2.0
"""A refused body is read and dropped for so long. Most clients look for an answer only when they have sent all."""


class BodyLimitMiddleware:
    """Refuses bodies over the limit of their path: before reading by Content-Length, else where the count passes it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self.limits = [(prefix, getattr(settings, name) * 2**20) for prefix, name in PREFIXES]
        self.json_limit = settings.json_limit_mb * 2**20

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limit = self.limit(scope["path"])
        headers = dict(scope["headers"])
        if _length(headers) > limit:
            if b"expect" not in headers:  # with `Expect: 100-continue` the body isn't on its way yet
                await _drop(receive)
            raise _too_large(limit)

        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > limit:
                if message.get("more_body"):
                    await _drop(receive)
                raise _too_large(limit)
            return message

        await self.app(scope, counted, send)

    def limit(self, path: str) -> int:
        """Bytes that a body for this path may have."""
        path = path.removeprefix("/v1")
        return next((limit for prefix, limit in self.limits if path.startswith(prefix)), self.json_limit)


def _length(headers: dict[bytes, bytes]) -> int:
    value = headers.get(b"content-length", b"")
    return int(value) if value.isdigit() else 0


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body is larger than {limit / 2**20:g} MiB, the limit of this route.")


async def _drop(receive: Receive) -> None:
    async def rest() -> None:
        while (await receive()).get("more_body"):
            pass

    await asyncio.wait({task := asyncio.create_task(rest())}, timeout=LINGER_S)
    task.cancel()
