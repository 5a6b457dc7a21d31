"""Blobs in a folder of this machine, or of a file system that all machines of the cluster see."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import suppress
from errno import EDQUOT, ENOSPC
from functools import partial
from io import FileIO
from pathlib import Path
from typing import TypeVar

from deployments.errors import InsufficientStorage, StorageFailed
from gallery.blobs import UNREACHABLE, Blob, check_name, gathered, is_name, media_type
from gallery.threads import in_thread

logger = logging.getLogger("manta.blobs")

BLOCK = 1 << 18
"""Bytes that are read at once."""
WRITTEN = 1 << 20
"""Bytes that are written at once: going to a thread and back costs as much as writing some 100 KiB."""
ABANDONED_S = 3600.0
"""A file that is being written is left over from a process that died if it was not touched for so long."""

_PARTIAL = ".partial"

T = TypeVar("T")


class FolderBlobs:
    """Files in a folder, which is made when it is needed."""

    def __init__(self, folder: Path, ttl: float) -> None:
        self.ttl = ttl
        self._folder = folder

    async def put(self, name: str, content: bytes) -> None:
        await in_thread(_translated, lambda: self._write(check_name(name), content))

    async def put_stream(self, name: str, blocks: AsyncIterable[bytes]) -> int:
        file = _PartialFile(self._folder / check_name(name))
        size = 0
        try:
            await in_thread(_translated, file.open)
            async for block in gathered(blocks, WRITTEN):
                await in_thread(_translated, partial(file.write, block))
                size += len(block)
            await in_thread(_translated, file.finish)
        finally:
            file.close()
        return size

    async def find(self, name: str) -> Blob | None:
        if not is_name(name):
            return None
        path = self._folder / name
        with suppress(FileNotFoundError):
            found = await asyncio.to_thread(path.stat)
            age = max(0.0, time.time() - found.st_mtime)
            if not self.ttl or age <= self.ttl:
                return Blob(found.st_size, media_type(name), age, partial(_blocks, path))
        return None

    async def delete(self, name: str) -> None:
        path = self._folder / check_name(name)
        await in_thread(_translated, lambda: path.unlink(missing_ok=True))

    async def discard(self, name: str) -> None:
        half_written = _partial(self._folder / check_name(name))
        await in_thread(_translated, lambda: half_written.unlink(missing_ok=True))
        await self.delete(name)

    async def expire(self) -> int:
        return await in_thread(_translated, self._expire) if self.ttl else 0

    async def close(self) -> None:
        """Nothing is open."""

    def _write(self, name: str, content: bytes) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / name
        half_written = _partial(path)
        try:
            half_written.write_bytes(content)
            half_written.replace(path)
        except BaseException:
            half_written.unlink(missing_ok=True)
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


def _partial(path: Path) -> Path:
    """Where a file is that is to be `path` when it is whole."""
    return path.with_name(f".{path.name}{_PARTIAL}")


class _PartialFile:
    """A file that gets its name when it is whole, and is on the disk then. All but `close` block."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: FileIO | None = None

    def open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = FileIO(_partial(self._path), "w")

    def write(self, block: bytes) -> None:
        assert self._file is not None
        rest = memoryview(block)
        while rest:
            rest = rest[self._file.write(rest) :]

    def finish(self) -> None:
        assert self._file is not None
        os.fsync(self._file.fileno())
        self.close()
        _partial(self._path).replace(self._path)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _translated(work: Callable[[], T]) -> T:
    """The result of work on files, whose errors become ours."""
    try:
        return work()
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise InsufficientStorage("the disk has no room for this file") from error
        logger.warning("%s: %s", error.filename, error.strerror)
        raise StorageFailed(UNREACHABLE) from error


async def _blocks(path: Path, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
    file = await in_thread(_translated, lambda: path.open("rb"))
    try:
        file.seek(start)
        left = sys.maxsize if end is None else end - start
        while block := await in_thread(_translated, partial(file.read, min(BLOCK, left))):
            yield block
            left -= len(block)
    finally:
        file.close()
