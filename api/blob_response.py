"""Blobs as answers: sent as they are read, whole or a part."""

import re
from collections.abc import Mapping
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.disconnect import unless_gone
from deployments.errors import ClientGone, RangeNotSatisfiable
from gallery.blobs import Blob

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class BlobResponse(Response):
    """Sends a blob, or the bytes of it that `wanted`, a Range header, names. Raises RangeNotSatisfiable."""

    def __init__(
        self, blob: Blob, headers: Mapping[str, str], *, media_type: str | None = None, wanted: str = ""
    ) -> None:
        self.blob = blob
        self.media_type = media_type or blob.media_type
        self.background = None
        self.part = part = byte_range(wanted, blob.size)
        self.status_code = 200 if part is None else 206
        start, end = part or (0, blob.size)
        partial = {} if part is None else {"Content-Range": f"bytes {start}-{end - 1}/{blob.size}"}
        self.init_headers({**headers, **partial, "Content-Length": str(end - start)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(self.status_code, self.raw_headers, send)
        try:
            await unless_gone(receive, self._send(answer))
        except ClientGone:
            if not answer.started:
                raise
            # Else there is nobody to tell and no status to change; the request log has its 499.

    async def _send(self, answer: "_Answer") -> None:
        async with aclosing(self.blob.read(*(self.part or ()))) as blocks:
            block = await anext(blocks, b"")  # before anything is sent: a blob that is gone is an error with a status
            while block:
                await answer.send(block, more=True)
                block = await anext(blocks, b"")
            await answer.send(b"", more=False)


def byte_range(header: str, size: int) -> tuple[int, int] | None:
    """The first byte that a Range header names, and the one behind the last; None: the whole (RFC 9110, 14.2).

    Several ranges, and what is no range of bytes, may be ignored. Raises RangeNotSatisfiable.
    """
    match = _RANGE.fullmatch(header.strip())
    if match is None or header.strip() == "bytes=-":
        return None
    first, last = match.groups()
    start, end = (int(first), int(last) + 1 if last else size) if first else (max(0, size - int(last)), size)
    end = min(end, size)
    if start >= end:
        raise RangeNotSatisfiable(f"The range {header[:64]!r} is not within the {size} bytes of this file.")
    return start, end


class _Answer:
    """The sending side of one response. Starts it with the first bytes."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], send: Send) -> None:
        self._status = status
        self._headers = headers
        self._send = send
        self.started = False

    async def send(self, block: bytes, *, more: bool) -> None:
        if not self.started:
            self.started = True
            await self._send({"type": "http.response.start", "status": self._status, "headers": self._headers})
        await self._send({"type": "http.response.body", "body": block, "more_body": more})
