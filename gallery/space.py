"""Room on the disk: what downloads that run at the same time have yet to write counts as taken."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deployments.errors import InsufficientStorage


class Space:
    """The disk under `folder`, of which `min_free` bytes stay free, and the limit of one installation.

    For one event loop: not locked against threads.
    """

    def __init__(self, folder: Path, min_free: int, limit: int = 0) -> None:
        self._folder = folder
        self._min_free = min_free
        self._limit = limit
        self._reservations: set[Reservation] = set()

    def require(self, size: int, *, present: int = 0) -> None:
        """Raise InsufficientStorage if `size` bytes in all, of which `present` are on the disk, can't be had."""
        if self._limit and size > self._limit:
            raise InsufficientStorage(
                f"needs {_gb(size)}; an installation may take {_gb(self._limit)} (setting download_limit_mb)"
            )
        free = shutil.disk_usage(self._folder).free
        taken = sum(reservation.left for reservation in self._reservations)
        if size - present > max(0, free - taken - self._min_free):
            promised = f", {_gb(taken)} are for downloads that run" if taken else ""
            raise InsufficientStorage(
                f"needs {_gb(size - present)} more under {self._folder}; {_gb(free)} are free, of which "
                f"{_gb(self._min_free)} stay free (setting min_free_disk_mb){promised}"
            )

    @contextmanager
    def reserve(self, size: int | None, *, present: int = 0) -> Iterator["Reservation"]:
        """Hold room for a file of `size` bytes (None: unknown, and then as it grows), `present` of them being there.

        Raises InsufficientStorage.
        """
        if size is not None:
            self.require(size, present=present)
        reservation = Reservation(self, present, 0 if size is None else max(0, size - present))
        self._reservations.add(reservation)
        try:
            yield reservation
        finally:
            self._reservations.discard(reservation)


class Reservation:
    """Room for one file."""

    def __init__(self, space: Space, present: int, left: int) -> None:
        self._space = space
        self._written = present
        self.left = left
        """Bytes that are yet to be written."""

    def wrote(self, count: int) -> None:
        """So many bytes more are on the disk; below 0: they aren't any more.

        Raises InsufficientStorage if a file whose size nobody said has no room to grow.
        """
        self._written += count
        self.left -= count
        if self.left < 0:
            self.left = 0
            self._space.require(self._written + 1, present=self._written)


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 5e7 else f"{size / 1e6:.1f} MB"
