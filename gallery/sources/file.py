"""`file:///path`: files of this machine, in the folders that the operator has opened."""

import asyncio
import os
import stat
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Changed
from gallery.settings import DownloadSettings
from gallery.sources.base import Whole

_BLOCK = 1 << 20


class File:
    """Regular files under the roots of the setting `MANTA_FILE_ROOTS`, symbolic links resolved."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._roots = settings.file_roots

    async def locate(self, uri: str) -> Whole:
        path = await asyncio.to_thread(self._permitted, _path(uri))
        return Whole(await open_file(path))

    def _permitted(self, path: Path) -> Path:
        """The path without symbolic links, which is in one of the roots."""
        try:
            resolved = path.resolve()
            if any(resolved.is_relative_to(Path(root).resolve()) for root in self._roots):
                return resolved
        except (ValueError, RuntimeError) as error:  # a NUL in it; links in a circle
            raise ConfigInvalid(f"{path}: {error}") from error
        raise ConfigInvalid(f"{path}: not in a folder that MANTA_FILE_ROOTS lists")


async def open_file(path: Path, *, sha256: str = "") -> "FileRemote":
    """Look a file of this machine up, wherever it is. Raises ConfigInvalid and DownloadFailed."""
    try:
        found = await asyncio.to_thread(path.stat)
    except OSError as error:
        raise DownloadFailed(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise ConfigInvalid(f"{path}: not a regular file; name a file in a folder that MANTA_FILE_ROOTS lists")
    return FileRemote(path, found.st_size, _version(found), sha256)


@dataclass(slots=True)
class FileRemote:
    """A file of this machine."""

    path: Path
    """Resolved."""
    size: int | None
    version: str
    sha256: str = ""
    ranges: bool = True

    async def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        while end is None or start < end:
            block = await asyncio.to_thread(self._block, start, _BLOCK if end is None else min(_BLOCK, end - start))
            if not block:
                return
            yield block
            start += len(block)

    def _block(self, start: int, size: int) -> bytes:
        """Opens the file each time: nothing is left open when the reader is cancelled."""
        try:
            with self.path.open("rb", buffering=0) as file:
                block = os.pread(file.fileno(), size, start)
                version = _version(os.fstat(file.fileno()))
        except OSError as error:
            raise DownloadFailed(f"{self.path}: {error.strerror}") from error
        if version != self.version:
            raise Changed(f"{self.path}: the file has changed")
        return block


def _path(uri: str) -> Path:
    """The absolute path that the URI names (RFC 8089)."""
    scheme, _, rest = uri.partition("://")
    host, slash, path = rest.partition("/")
    if scheme.lower() != "file" or not slash or host not in ("", "localhost"):
        raise ConfigInvalid(f"{uri}: expected file:///absolute/path")
    return Path("/" + unquote(path))


def _version(found: os.stat_result) -> str:
    return f"{found.st_mtime_ns}-{found.st_size}-{found.st_ino}"
