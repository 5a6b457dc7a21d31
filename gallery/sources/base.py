"""What a source of model files is."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from deployments.errors import InsufficientStorage

HEADROOM = 64 << 20
"""Bytes that stay free on the disk."""

Report = Callable[[int, int], None]
"""Called with the bytes fetched so far and the bytes in all (0: unknown). It may raise to stop the fetch."""


class Source(Protocol):
    """Fetches files of one URI scheme."""

    def fetch(self, uri: str, to: Path, report: Report) -> None:
        """Write the file that `uri` names to `to`, whose folder exists. Its checksum is the caller's to check.

        Blocks. Temporary files go beside `to` and are gone afterwards. Raises ConfigInvalid when the URI is wrong
        DownloadFailed with the reason when the file can't be had, InsufficientStorage when it doesn't fit.
        """
        ...


def require_space(folder: Path, size: int) -> None:
    """Raise InsufficientStorage if `size` bytes more don't fit the disk under `folder`."""
    free = shutil.disk_usage(folder).free
    if size > 0 and size + HEADROOM > free:
        raise InsufficientStorage(f"{folder}: {size / 1e6:.0f} MB more are needed, {free / 1e6:.0f} MB are free")
