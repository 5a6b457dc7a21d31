"""How a job is doing: what its client sees, and what the work reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class Phase(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    """The gallery, the base config and the sizes of the files are looked up."""
    DOWNLOADING = "downloading"
    INSTALLING = "installing"
    """Archives are unpacked, templates and the YAML written."""
    UNLOADING = "unloading"
    """Of a deletion: the running model drains."""
    DELETING = "deleting"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        return self in (Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED)


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A snapshot of a job."""

    uuid: str
    phase: Phase
    model: str
    """The model's name; as far as it is known yet."""
    deletion: bool = False
    error: str = ""
    """Why it failed."""
    warnings: tuple[str, ...] = ()
    """What the user should know of a model that was installed all the same, such as a key that will be refused."""
    file_name: str = ""
    """The file that is being fetched."""
    current_bytes: int = 0
    """Of all files of the job."""
    total_bytes: int = 0
    """0: not known yet."""
    rate: float = 0.0
    """Bytes a second, over the last seconds."""
    eta: float | None = None
    """Seconds left, where that can be said."""
    created: float = 0.0
    """Unix seconds."""
    updated: float = 0.0

    @property
    def progress(self) -> float:
        """Percent."""
        if self.phase is Phase.COMPLETED:
            return 100.0
        return min(100.0, 100.0 * self.current_bytes / self.total_bytes) if self.total_bytes else 0.0


class Progress(Protocol):
    """What installation and deletion report to."""

    def phase(self, phase: Phase) -> None: ...

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Bytes of each file of the job, by file name; 0: unknown."""
        ...

    def at(self, filename: str, done: int, total: int) -> None:
        """So much of a file is there. Called often; from any thread."""
        ...

    def warn(self, message: str) -> None: ...


@dataclass(slots=True)
class Silent:
    """Progress that nobody watches; warnings are kept."""

    warnings: list[str] = field(default_factory=list)

    def phase(self, phase: Phase) -> None:
        """Nobody watches."""

    def expect(self, sizes: Mapping[str, int]) -> None:
        """Nobody watches."""

    def at(self, filename: str, done: int, total: int) -> None:
        """Nobody watches."""

    def warn(self, message: str) -> None:
        self.warnings.append(message)
