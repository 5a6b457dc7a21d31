"""Audio on the wire: a file at once, as it is made, or its pieces in events."""

from base64 import b64encode
from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.disconnect import unless_gone
from api.sse import event
from deployments.audio_formats import FORMATS
from deployments.backends.base import AudioChunk
from deployments.errors import ClientGone

UNNAMED = "audio/x-wav"
"""LocalAI's type of a WAV that nobody asked for by name."""


def audio_response(chunk: AudioChunk, name: str, format: str | None) -> Response:  # noqa: A002, as of the request
    """A whole file. `name`: without suffix, for who saves it. `format`: None where the client named none."""
    return Response(chunk.data, headers=_headers(name, format))


class AudioStream(Response):
    """Sends each chunk as it comes. The head waits for the first: an error before it has its status, a later one breaks
    the connection, which is how a client sees that the file is not whole."""

    def __init__(self, chunks: AsyncGenerator[AudioChunk, None], name: str, format: str | None) -> None:  # noqa: A002
        self.chunks = chunks
        self.status_code = 200
        self.background = None
        self.init_headers({**_headers(name, format), "X-Accel-Buffering": "no"})  # the latter: nginx

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._started = False
        try:
            await unless_gone(receive, self._answer(send))
        except ClientGone:
            if not self._started:
                raise
            # Else there is nobody to tell and no status to change; the request log has its 499.

    async def _answer(self, send: Send) -> None:
        async with aclosing(self.chunks) as chunks:  # or the replica works on for a client who has left
            async for chunk in chunks:
                await self._start(send)
                await send({"type": "http.response.body", "body": chunk.data, "more_body": True})
        await self._start(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, send: Send) -> None:
        if not self._started:
            self._started = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})


async def audio_events(chunks: AsyncGenerator[AudioChunk, None]) -> AsyncGenerator[bytes, None]:
    """OpenAI's events. The last has no usage: these engines count no tokens."""
    async with aclosing(chunks):
        async for chunk in chunks:
            if chunk.data:
                yield event({"type": "speech.audio.delta", "audio": b64encode(chunk.data).decode()})
    yield event({"type": "speech.audio.done"})


def _headers(name: str, format: str | None) -> dict[str, str]:  # noqa: A002
    found = FORMATS[format or "wav"]
    return {
        "Content-Type": found.media_type if format else UNNAMED,
        "Content-Disposition": f'attachment; filename="{name}.{found.suffix}"',
    }
