"""Fetching one file: resumed where it stood, over several connections, and hashed while it comes in."""

import asyncio
import errno
import hashlib
import random
import time
from collections import deque
from collections.abc import Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass
from pathlib import Path

from deployments.errors import InsufficientStorage
from deployments.metrics import GALLERY_BYTES
from gallery.errors import Busy, Interrupted
from gallery.partial import Partial, remove
from gallery.settings import DownloadSettings
from gallery.sources.base import Remote
from gallery.space import Reservation, Space
from gallery.threads import in_thread

Report = Callable[[int, int], None]
"""Called with the bytes that are there and the bytes in all (0: unknown)."""

LARGE = 32 << 20
"""Bytes from which on a file is worth more than one connection."""
MIN_PIECE, MAX_PIECE = 16 << 20, 256 << 20
"""Bytes that a connection asks for at once: enough that its round trips (redirects too) don't count, little enough
that the front of the file, which is hashed, is not far behind."""
WRITE = 2 << 20
"""Bytes of each connection that are written at once."""
SAVE = 4 << 20
"""Bytes for each connection after which the record of what is there is replaced."""
WRITE_S, SAVE_S, SYNC_S = 0.25, 1.0, 10.0
"""Seconds after which the same is done although less came in, and between two syncs with the disk."""
HASH = 8 << 20
"""Bytes that are hashed in one go."""
WORTH = 64 << 10
"""New bytes that make a try a success: a server that sends a little and then stalls, again and again, is a dead one."""
MAX_BACKOFF_S, MAX_RETRY_AFTER_S = 60.0, 600.0


async def download(
    remote: Remote, to: Path, settings: DownloadSettings, *, report: Report, space: Space | None = None
) -> str:
    """Fetch the file into `to`, whose folder exists, and return its sha256 in hex.

    What an earlier try left in `to` is kept if the remote's version is the same. On every error, and when it is
    cancelled, what was fetched stays for the next try: `discard` removes it. Raises InsufficientStorage before the
    first byte if `space` hasn't enough, Interrupted after `retries` tries in a row that brought next to nothing,
    Changed if the file is another now (locate it again and call again), and DownloadFailed.
    """
    partial = Partial(to, remote.version, remote.size)
    try:
        await in_thread(partial.open)
        with space.reserve(remote.size, present=partial.count) if space else nullcontext() as reservation:
            return await _Download(remote, partial, settings, report, reservation).run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InsufficientStorage(f"{to.parent}: {error.strerror}") from error
    finally:
        partial.close()


async def discard(to: Path) -> None:
    """Remove what a download into `to` left."""
    await asyncio.to_thread(remove, to)


@dataclass(slots=True)
class _Connection:
    """One of those that fetch side by side, and its piece of the file."""

    at: int = 0
    end: int | None = None
    furthest: int = 0
    """Byte of this piece that was reached by any try: what lies behind it is new."""
    bringing: bool = False
    """Whether the try that runs has brought bytes."""


class _Download:
    """A download that runs."""

    def __init__(
        self,
        remote: Remote,
        partial: Partial,
        settings: DownloadSettings,
        report: Report,
        reservation: Reservation | None,
    ) -> None:
        self._remote = remote
        self._partial = partial
        self._settings = settings
        self._report = report
        self._reservation = reservation
        self._hasher = _Hasher(partial)
        self._resumable = bool(remote.version) and remote.ranges
        self._pieces = deque(self._missing())
        self._connections: list[_Connection] = []
        self._saving = False
        self._saved_at = time.monotonic()

    async def run(self) -> str:
        """Fetch what is missing; returns the sha256."""
        try:
            async with asyncio.TaskGroup() as tasks:
                syncing = tasks.create_task(self._sync())
                hashing = tasks.create_task(self._hasher.follow())
                async with asyncio.TaskGroup() as connections:
                    for _ in range(min(self._settings.connections, len(self._pieces))):
                        connections.create_task(self._connect())
                self._hasher.finish()
                syncing.cancel()
            return hashing.result()
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            await in_thread(self._partial.save, self._partial.done)

    def _missing(self) -> list[tuple[int, int | None]]:
        """The pieces to fetch, in order: where a piece starts, and where it ends if that is known."""
        size = self._remote.size
        if not self._resumable:
            self._partial.clear()
        if size is None:
            return [(self._partial.front, None)]
        piece = max(1, size)
        if self._resumable and size >= LARGE and self._settings.connections > 1:
            piece = min(max(size // 32, MIN_PIECE), MAX_PIECE)
        return [
            gap for start in range(0, size, piece) for gap in self._partial.missing(start, min(start + piece, size))
        ]

    async def _connect(self) -> None:
        """Fetch pieces until there are none, or until the server says that this connection is one too many."""
        connection = _Connection()
        self._connections.append(connection)
        while self._pieces:
            connection.at, connection.end = self._pieces.popleft()
            connection.furthest = connection.at
            if not await self._fetch(connection):
                self._pieces.appendleft((connection.at, connection.end))
                return

    async def _fetch(self, connection: _Connection) -> bool:
        """Fetch a piece, in as many tries as it takes; False: the others shall do it."""
        fruitless = 0
        while True:
            try:
                await self._read(connection)
                if connection.end is None or connection.at >= connection.end:
                    return True
                error = Interrupted(f"the file ended at byte {connection.at} of {self._remote.size}")
            except Interrupted as interrupted:
                error = interrupted
            fruitless = 0 if connection.at >= connection.furthest + WORTH else fruitless + 1
            hopeless = fruitless >= max(1, self._settings.retries)
            if (hopeless or isinstance(error, Busy)) and any(other.bringing for other in self._connections):
                return False
            if hopeless:
                raise error
            connection.furthest = max(connection.at, connection.furthest)
            if not self._resumable:
                self._start_again(connection)
            await asyncio.sleep(self._pause(fruitless, error.retry_after))

    async def _read(self, connection: _Connection) -> None:
        """One try: read and write from where the connection stands, until its piece or the answer ends."""
        blocks: list[bytes] = []
        size, written_at = 0, time.monotonic()
        try:
            async with aclosing(self._remote.read(connection.at, connection.end)) as answer:
                async for block in answer:
                    connection.bringing = True
                    if connection.end is not None and connection.at + size + len(block) > connection.end:
                        block = block[: connection.end - connection.at - size]
                    blocks.append(block)
                    size += len(block)
                    if size >= WRITE or time.monotonic() - written_at > WRITE_S:
                        await self._write(connection, blocks, size)
                        blocks, size, written_at = [], 0, time.monotonic()
                    if connection.at + size == connection.end:
                        break
        except Interrupted:
            await self._write(connection, blocks, size)
            raise
        finally:
            connection.bringing = False
        await self._write(connection, blocks, size)

    async def _write(self, connection: _Connection, blocks: list[bytes], size: int) -> None:
        if not size:
            return
        await in_thread(self._partial.write, blocks, connection.at)
        self._partial.wrote(connection.at, connection.at + size)
        connection.at += size
        GALLERY_BYTES.inc(size)
        self._hasher.wake()
        if self._reservation:
            self._reservation.wrote(size)
        self._report(self._partial.count, self._remote.size or 0)
        await self._save()

    async def _save(self) -> None:
        """Replace the record, if enough has come in since."""
        enough = self._partial.unsaved >= SAVE * len(self._connections)
        if self._saving or not (enough or time.monotonic() - self._saved_at >= SAVE_S):
            return
        self._saving, self._partial.unsaved, self._saved_at = True, 0, time.monotonic()
        try:
            await in_thread(self._partial.save, self._partial.done)
        finally:
            self._saving = False

    async def _sync(self) -> None:
        while True:
            await asyncio.sleep(SYNC_S)
            await asyncio.to_thread(self._partial.sync, self._partial.done)

    def _start_again(self, connection: _Connection) -> None:
        """Of a file that can't be read from elsewhere than its start, or that may be another one by now."""
        if self._reservation:
            self._reservation.wrote(-connection.at)
        self._partial.clear()
        self._hasher.start_again()
        connection.at = 0

    def _pause(self, fruitless: int, retry_after: float | None) -> float:
        """Seconds until the next try: doubled with each one that brought nothing, and never all at the same time."""
        backoff = min(MAX_BACKOFF_S, self._settings.backoff * 2.0 ** max(0, fruitless - 1))
        backoff *= random.uniform(0.5, 1.0)  # noqa: S311 – no secret
        return max(backoff, min(retry_after or 0.0, MAX_RETRY_AFTER_S))


class _Hasher:
    """Hashes a file behind its front, in a thread, from the page cache."""

    def __init__(self, partial: Partial) -> None:
        self._partial = partial
        self._buffer = memoryview(bytearray(1 << 20))
        self._woken = asyncio.Event()
        self._finished = False
        self.start_again()

    def wake(self) -> None:
        """There may be more to hash."""
        if self._partial.front - self._at >= HASH:
            self._woken.set()

    def finish(self) -> None:
        """The file is complete."""
        self._finished = True
        self._woken.set()

    def start_again(self) -> None:
        """The bytes are others now."""
        self._sha256 = hashlib.sha256()
        self._at = 0

    async def follow(self) -> str:
        """Hash until the file is complete and has been hashed; returns the sha256 in hex."""
        self.wake()  # what an earlier try left is there already
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._partial.front - self._at >= (1 if self._finished else HASH):
                sha256, end = self._sha256, min(self._partial.front, self._at + HASH)
                await in_thread(self._hash, sha256, self._at, end)
                if sha256 is self._sha256:
                    self._at = end
            if self._finished:
                return self._sha256.hexdigest()

    def _hash(self, sha256: "hashlib._Hash", start: int, end: int) -> None:
        while start < end:
            count = self._partial.read(self._buffer[: end - start], start)
            if not count:
                return  # cut off in the meantime: start_again was called
            sha256.update(self._buffer[:count])
            start += count


def _first(error: BaseException) -> BaseException:
    """The first error in a group, and in groups in it."""
    return _first(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error
