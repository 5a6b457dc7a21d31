"""Blobs: whole files that the server makes or is given, in a folder of this machine or in S3, for some time or ever."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from deployments.errors import MantaError

logger = logging.getLogger("manta.blobs")

S3_SCHEME = "s3://"
GENERATED_IMAGES = "generated-images"
"""Folder, under the place of all blobs, of what the image routes answer by URL."""
UPLOADS = "uploads"
"""Folder beside it of the files that clients upload, unless the settings name another place."""

MEDIA_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
"""By a name's suffix."""

LONGEST_PERIOD_S = 300.0
"""Between two looks for what has become too old."""
UNREACHABLE = "what keeps files can't be used at the moment"
"""What clients are told of any trouble there; the log says more."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """Where blobs are, and how long. Crosses to the gallery's process."""

    location: str
    """A folder, or `s3://bucket/prefix`."""
    generated_ttl: float
    """Seconds that a generated file is kept; 0: for ever."""
    uploads: str = ""
    """As `location`, for uploaded files. Empty: beside the generated ones."""


class ReadBlob(Protocol):
    def __call__(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Bytes `start` up to, not including, `end`, in blocks; None: to the last. Raises StorageFailed.

        The generator holds a file or a connection until it is closed.
        """
        ...


@dataclass(frozen=True, slots=True)
class Blob:
    """One that was found."""

    size: int
    """Bytes."""
    media_type: str
    age: float
    """Seconds since it was put there."""
    read: ReadBlob


class Blobs(Protocol):
    """A place for blobs. Names are flat: letters, digits, `.`, `_` and `-`. All methods may raise StorageFailed."""

    ttl: float
    """Seconds; 0: for ever."""

    async def put(self, name: str, content: bytes) -> None:
        """It is there whole or not at all. Raises InsufficientStorage."""
        ...

    async def put_stream(self, name: str, blocks: AsyncIterable[bytes]) -> int:
        """The same, as it comes in: memory holds some megabytes of it. Its size.

        What is half written when this raises, or the process dies, stays until `discard`.
        """
        ...

    async def find(self, name: str) -> Blob | None:
        """None for what isn't there, is older than `ttl`, or can't be a name."""
        ...

    async def delete(self, name: str) -> None:
        """No error if it isn't there."""
        ...

    async def discard(self, name: str) -> None:
        """As `delete`, and what there is of it half written. Nobody else may be writing it."""
        ...

    async def expire(self) -> int:
        """Delete all that are older than `ttl`; how many were. Others may be doing the same."""
        ...

    async def close(self) -> None: ...


def generated_images(settings: BlobSettings) -> Blobs:
    """The place of generated images. Opens nothing yet. Raises ConfigInvalid for a location that can't be one."""
    return _place(_within(settings.location, GENERATED_IMAGES), settings.generated_ttl)


def uploads(settings: BlobSettings) -> Blobs:
    """The place of uploaded files, where they stay. As `generated_images`."""
    return _place(settings.uploads or _within(settings.location, UPLOADS), ttl=0)


def _within(location: str, folder: str) -> str:
    return f"{location.rstrip('/')}/{folder}"


def _place(location: str, ttl: float) -> Blobs:
    if location.startswith(S3_SCHEME):
        from gallery.s3_blobs import S3Blobs  # with the packages it needs, only where it is used

        return S3Blobs(location, ttl)
    from gallery.folder_blobs import FolderBlobs  # which knows this module

    return FolderBlobs(Path(location), ttl)


async def expire_for_ever(blobs: Blobs) -> None:
    """Delete what becomes too old, as long as this runs; one of the server's processes does. A failure is logged."""
    while blobs.ttl:
        try:
            if count := await blobs.expire():
                logger.info("%d generated files were older than %g s and are deleted", count, blobs.ttl)
        except MantaError as error:
            logger.warning("generated files that are too old could not be deleted: %s", error.message)
        await asyncio.sleep(min(blobs.ttl / 2, LONGEST_PERIOD_S))


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """The name, if it can be one: names are made by the server."""
    if not is_name(name):
        raise ValueError(f"{name!r} can't be a blob's name")
    return name


def media_type(name: str) -> str:
    return MEDIA_TYPES.get(PurePosixPath(name).suffix, "application/octet-stream")


async def gathered(blocks: AsyncIterable[bytes], size: int) -> AsyncGenerator[bytes, None]:
    """The same bytes in blocks of `size`; the last one may be shorter."""
    buffer = bytearray()
    async for block in blocks:
        buffer += block
        while len(buffer) >= size:
            yield bytes(memoryview(buffer)[:size])
            del buffer[:size]
    if buffer:
        yield bytes(buffer)
