"""A file whose sha256 its source knows beforehand."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from gallery.sources.base import Remote


@dataclass(slots=True)
class Vouched:
    """Remote: another one, of which the sha256 is the version.

    A download goes on where it stood although the server has no ETag for the file, or each of its mirrors another.
    """

    remote: Remote
    sha256: str
    size: int | None = field(init=False)
    version: str = field(init=False)
    ranges: bool = field(init=False)

    def __post_init__(self) -> None:
        self.size, self.ranges = self.remote.size, self.remote.ranges
        self.version = f"sha256:{self.sha256}"

    def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        return self.remote.read(start, end)
