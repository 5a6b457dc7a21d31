"""Blobs: whole files that the server makes or is given, in a folder of this machine or in S3, for a limited time."""

import asyncio
import logging
import os
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from errno import EDQUOT, ENOSPC
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from deployments.errors import InsufficientStorage, MantaError, StorageFailed
from gallery.threads import in_thread

logger = logging.getLogger("manta.blobs")

S3_SCHEME = "s3://"
GENERATED_IMAGES = "generated-images"
"""Folder, under the place of all blobs, of what the image routes answer by URL."""

MEDIA_TYPES = {".png": "image/png", ".webp": "image/webp", ".jpg": "image/jpeg"}
"""By a name's suffix."""

BLOCK = 1 << 18
"""Bytes that are read at once."""
LONGEST_PERIOD_S = 300.0
"""Between two looks for what has become too old."""
ABANDONED_S = 3600.0
"""A file that is being written is left over from a process that died if it was not touched for so long."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_PARTIAL = ".partial"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class BlobSettings:
    """Where blobs are, and how long. Crosses to the gallery's process."""

    location: str
    """A folder, or `s3://bucket/prefix`."""
    generated_ttl: float
    """Seconds that a generated file is kept; 0: for ever."""


@dataclass(frozen=True, slots=True)
class Blob:
    """One that was found."""

    size: int
    """Bytes."""
    media_type: str
    age: float
    """Seconds since it was put there."""
    read: Callable[[], AsyncGenerator[bytes, None]]
    """Its bytes, in blocks. The generator holds a file or a connection until it is closed."""


class Blobs(Protocol):
    """A place for blobs. Names are flat: letters, digits, `.`, `_` and `-`. All methods may raise StorageFailed."""

    ttl: float
    """Seconds; 0: for ever."""

    async def put(self, name: str, content: bytes) -> None:
        """It is there whole or not at all. Raises InsufficientStorage."""
        ...

    async def find(self, name: str) -> Blob | None:
        """None for what isn't there, is older than `ttl`, or can't be a name."""
        ...

    async def delete(self, name: str) -> None:
        """No error if it isn't there."""
        ...

    async def expire(self) -> int:
        """Delete all that are older than `ttl`; how many were. Others may be doing the same."""
        ...

    async def close(self) -> None: ...


def generated_images(settings: BlobSettings) -> Blobs:
    """The place of generated images. Opens nothing yet. Raises ConfigInvalid for a location that can't be one."""
    if settings.location.startswith(S3_SCHEME):
        from gallery.s3_blobs import S3Blobs  # with the packages it needs, only where it is used

        return S3Blobs(f"{settings.location.rstrip('/')}/{GENERATED_IMAGES}", settings.generated_ttl)
    return FolderBlobs(Path(settings.location) / GENERATED_IMAGES, settings.generated_ttl)


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


class FolderBlobs:
    """Files in a folder, which is made when it is needed."""

    def __init__(self, folder: Path, ttl: float) -> None:
        self.ttl = ttl
        self._folder = folder

    async def put(self, name: str, content: bytes) -> None:
        await in_thread(_translated, lambda: self._write(check_name(name), content))

    async def find(self, name: str) -> Blob | None:
        if not is_name(name):
            return None
        path = self._folder / name
        with suppress(FileNotFoundError):
            found = await asyncio.to_thread(path.stat)
            age = max(0.0, time.time() - found.st_mtime)
            if not self.ttl or age <= self.ttl:
                return Blob(found.st_size, media_type(name), age, lambda: _blocks(path))
        return None

    async def delete(self, name: str) -> None:
        path = self._folder / check_name(name)
        await in_thread(_translated, lambda: path.unlink(missing_ok=True))

    async def expire(self) -> int:
        return await in_thread(_translated, self._expire) if self.ttl else 0

    async def close(self) -> None:
        """Nothing is open."""

    def _write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f".{name}{_PARTIAL}"
        try:
            partial.write_bytes(content)
            partial.replace(self._folder / name)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise

    def _expire(self) -> int:
        if not self._folder.is_dir():
            return 0
        count, now = 0, time.time()
        with os.scandir(self._folder) as entries:
            for entry in entries:
                abandoned = entry.name.startswith(".") and entry.name.endswith(_PARTIAL)
                if not (abandoned or is_name(entry.name)) or not entry.is_file(follow_symlinks=False):
                    continue
                with suppress(FileNotFoundError):  # somebody else was quicker
                    if now - entry.stat().st_mtime > (ABANDONED_S if abandoned else self.ttl):
                        Path(entry.path).unlink()
                        count += not abandoned
        return count


def _translated(work: Callable[[], T]) -> T:
    """The result of work on files, whose errors become ours."""
    try:
        return work()
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise InsufficientStorage("the disk has no room for what was generated") from error
        logger.warning("%s: %s", error.filename, error.strerror)
        raise StorageFailed("generated files can't be kept at the moment") from error


async def _blocks(path: Path) -> AsyncGenerator[bytes, None]:
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while block := await asyncio.to_thread(file.read, BLOCK):
            yield block
    finally:
        file.close()
