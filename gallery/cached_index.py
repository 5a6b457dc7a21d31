"""One gallery's index: fetched when it is out of date, served from memory, kept on disk for when it can't be read."""

import asyncio
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import orjson
from pydantic import TypeAdapter, ValidationError

from deployments.errors import DownloadFailed, MantaError
from gallery.index import Entry, Texts, fetch_index
from gallery.settings import Gallery

logger = logging.getLogger("manta.gallery.indexes")

RETRY_S = 60.0
"""An index that couldn't be read is tried again after so long, at the earliest."""
PATIENCE_S = 2.0
"""A request waits so long for a fresh index where there is an older one; the fetch goes on without it."""
FETCH_S = 180.0
"""A fetch that takes longer has failed."""


@dataclass(frozen=True, slots=True)
class _Copy:
    """The last good index, as it is kept on disk."""

    url: str
    entries: list[Entry]


_COPY = TypeAdapter(_Copy)


class CachedIndex:
    """The entries of one gallery. One fetch at a time, however many ask."""

    def __init__(self, gallery: Gallery, sources: Texts, folder: Path, ttl: float) -> None:
        """`folder` is where the copy is kept; `ttl` the seconds after which an index is out of date."""
        self.problem = ""
        """Why the index could not be read, or not wholly, when it was last tried."""
        self._gallery = gallery
        self._sources = sources
        self._path = folder / f"{quote(gallery.name, safe='')}.json"
        self._ttl = ttl
        self._entries: list[Entry] | None = None
        self._due = 0.0  # monotonic
        self._reading: asyncio.Task[None] | None = None  # the copy
        self._fetching: asyncio.Task[None] | None = None

    async def entries(self) -> list[Entry]:
        """Those of the newest index that could be read. Raises DownloadFailed when none ever could."""
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_copy())
        await asyncio.shield(self._reading)
        if time.monotonic() >= self._due and (self._fetching is None or self._fetching.done()):
            self._fetching = asyncio.create_task(self._fetch(), name=f"fetch gallery {self._gallery.name}")
        if self._fetching and not self._fetching.done():
            nothing_yet = self._entries is None and not self.problem
            await asyncio.wait([self._fetching], timeout=None if nothing_yet else PATIENCE_S)
        if self._entries is None:
            raise DownloadFailed(f"gallery {self._gallery.name!r} can't be read: {self.problem}")
        return self._entries

    async def close(self) -> None:
        """End the fetch, if there is one."""
        tasks = [task for task in (self._reading, self._fetching) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def forget(self) -> None:
        """Remove the copy: the gallery is no more."""
        await self.close()
        await asyncio.to_thread(self._path.unlink, missing_ok=True)

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_S):
                index = await fetch_index(self._sources, self._gallery.url)
        except MantaError as error:
            self._failed(error.message)
        except TimeoutError:
            self._failed(f"{self._gallery.url}: took longer than {FETCH_S:.0f} s")
        except Exception:  # a request that waits for it must hear of it
            logger.exception("gallery %s: internal error", self._gallery.name)
            self._failed("internal error")
        else:
            self._entries = index.entries
            self.problem = _summary(index.problems)
            self._due = time.monotonic() + self._ttl
            await asyncio.to_thread(self._write_copy, index.entries)

    def _failed(self, problem: str) -> None:
        logger.warning("gallery %s can't be read: %s", self._gallery.name, problem)
        self.problem = problem
        self._due = time.monotonic() + min(self._ttl, RETRY_S)

    async def _read_copy(self) -> None:
        try:
            copy = await asyncio.to_thread(lambda: _COPY.validate_json(self._path.read_bytes()))
        except FileNotFoundError:
            return
        except (OSError, ValidationError) as error:
            logger.warning("gallery %s: its copy %s can't be read: %s", self._gallery.name, self._path, error)
            return
        if copy.url == self._gallery.url:
            self._entries = copy.entries

    def _write_copy(self, entries: list[Entry]) -> None:
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            content = orjson.dumps({"url": self._gallery.url, "entries": entries}, option=orjson.OPT_NON_STR_KEYS)
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(content)
            partial.replace(self._path)
        except (OSError, TypeError) as error:  # it is but a copy
            logger.warning("gallery %s: no copy could be kept: %s", self._gallery.name, error)


def _summary(problems: list[str]) -> str:
    if not problems:
        return ""
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "entries left out: " + "; ".join(problems[:3]) + more
