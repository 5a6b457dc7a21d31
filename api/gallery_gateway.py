"""What routes need of the gallery. `api/gallery_handle.py` is the way there by Ray; tests have another."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from gallery.request import InstallRequest
from gallery.settings import Gallery
from gallery.status import JobStatus


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which models a client wants to see. Empty: all."""

    search: str = ""
    tag: str = ""
    gallery: str = ""
    offset: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """Models that can be installed, as JSON: the gallery's own types would bring all its packages to the ingress."""

    models: list[dict[str, Any]]
    total: int
    """Without `offset` and `limit`."""
    unreadable: tuple[str, ...]
    """Galleries whose index could not be read, or not wholly, when that was last tried."""


class GalleryGateway(Protocol):
    """The way to the gallery. Every method may raise NotReady while it is being restarted, and DeadlineExceeded."""

    async def apply(self, request: InstallRequest) -> str:
        """Begin an installation; the uuid of its job."""
        ...

    async def delete(self, name: str) -> str:
        """Begin a deletion; the uuid of its job. Raises ModelNotFound."""
        ...

    async def offer(self, wanted: Wanted) -> Offer:
        """Raises GalleryNotFound."""
        ...

    async def reload(self) -> None:
        """Begin to fetch the files that model configs name and that aren't there."""
        ...

    async def galleries(self) -> list[Gallery]: ...

    async def problems(self) -> dict[str, str]:
        """Gallery → why its index could not be read, or not wholly, when that was last tried."""
        ...

    async def add_gallery(self, gallery: Gallery) -> list[Gallery]:
        """The new list. Raises AlreadyExists."""
        ...

    async def remove_gallery(self, name: str) -> list[Gallery]:
        """The new list. Raises GalleryNotFound."""
        ...

    async def jobs(self) -> dict[str, JobStatus]:
        """uuid → job, oldest first."""
        ...

    async def job(self, uuid: str) -> JobStatus:
        """Raises JobNotFound."""
        ...

    async def cancel(self, uuid: str) -> JobStatus:
        """Its last status. Raises JobNotFound, NotCancellable."""
        ...

    def events(self, uuid: str) -> AsyncGenerator[JobStatus, None]:
        """The job's status now and whenever it changes, to the final one. Raises JobNotFound."""
        ...
