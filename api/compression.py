"""Answers compressed with gzip."""

from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES, GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

LEVEL = 1
"""zlib's. 0.8 ms for 90 kB of embeddings on the development machine, which become 45 kB; level 6 takes 4.3 ms, for 43.
What is over 128 KiB is compressed in a thread, the rest on the event loop."""

NEVER = (*DEFAULT_EXCLUDED_CONTENT_TYPES, "application/octet-stream", "application/pdf", "image/*")
"""Types of answers: events must leave at once, and media are compressed already."""


class CompressionMiddleware(GZipMiddleware):
    """Compresses answers of `minimum` bytes or more for clients that take gzip; never streams, media, files."""

    def __init__(self, app: ASGIApp, minimum: int) -> None:
        super().__init__(app, minimum, LEVEL, exclude_content_types=NEVER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/content"):  # of a file: sent as it is, in ranges too
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)
