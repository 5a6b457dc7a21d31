"""A gallery whose jobs are scripts: what the gallery's routes are tested against."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from api.gallery_gateway import Offer, Wanted
from deployments.errors import AlreadyExists, GalleryNotFound, JobNotFound, ModelNotFound, NotCancellable
from gallery.request import InstallRequest
from gallery.settings import Gallery
from gallery.status import JobStatus, Phase
from tests.unit.script import played

RUNNING = JobStatus(
    uuid="u-1",
    phase=Phase.DOWNLOADING,
    model="tiny",
    file_name="tiny.gguf",
    current_bytes=512 << 20,
    total_bytes=1 << 30,
    rate=1e6,
    eta=512.0,
    created=1_800_000_000.0,
    updated=1_800_000_001.0,
)
DONE = replace(RUNNING, uuid="u-2", phase=Phase.COMPLETED, current_bytes=1 << 30, warnings=("unknown key foo",))
FAILED = replace(RUNNING, uuid="u-3", phase=Phase.FAILED, error="GET https://x/y: 404 Not Found")
QUEUED = JobStatus("u-4", Phase.QUEUED, "")


def listed(name: str, gallery: str = "test", **fields: Any) -> dict[str, Any]:
    """An entry of the list of models."""
    empty: dict[str, Any] = {"url": "", "config_file": {}, "overrides": {}, "files": [], "urls": [], "tags": []}
    texts = {"description": "", "license": "", "icon": ""}
    where = {"name": gallery, "url": "https://example.org/index.yaml"}
    return {"name": name, **empty, **texts, "gallery": where, "installed": False, **fields}


class LocalGallery:
    """Keeps what it is asked for; has the jobs above."""

    def __init__(self) -> None:
        self.requests: list[InstallRequest] = []
        self.wanted: list[Wanted] = []
        self.reloads = 0
        self.models = [listed("one", files=[{"filename": "a", "uri": "https://x/a", "sha256": "", "parts": []}])]
        self.unreadable: dict[str, str] = {}
        self.known = [Gallery("test", "https://example.org/index.yaml")]
        self.statuses = {status.uuid: status for status in (RUNNING, DONE, FAILED, QUEUED)}
        self.script: list[JobStatus | Exception | asyncio.Event] = [QUEUED, RUNNING, DONE]
        self.ended = asyncio.Event()
        """A stream of events was closed."""

    async def apply(self, request: InstallRequest) -> str:
        self.requests.append(request)
        return "u-1"

    async def delete(self, name: str) -> str:
        if name not in ("tiny", "org/model.gguf"):
            raise ModelNotFound(f"no model {name!r} is installed")
        return "u-2"

    async def offer(self, wanted: Wanted) -> Offer:
        self.wanted.append(wanted)
        return Offer(self.models, 100, tuple(self.unreadable))

    async def reload(self) -> None:
        self.reloads += 1

    async def galleries(self) -> list[Gallery]:
        return list(self.known)

    async def problems(self) -> dict[str, str]:
        return self.unreadable

    async def add_gallery(self, gallery: Gallery) -> list[Gallery]:
        if any(known.name == gallery.name for known in self.known):
            raise AlreadyExists(f"{gallery.name} already exists").at("name")
        self.known.append(gallery)
        return list(self.known)

    async def remove_gallery(self, name: str) -> list[Gallery]:
        if not any(known.name == name for known in self.known):
            raise GalleryNotFound(f"{name} is not currently registered").at("name")
        self.known = [known for known in self.known if known.name != name]
        return list(self.known)

    async def jobs(self) -> dict[str, JobStatus]:
        return self.statuses

    async def job(self, uuid: str) -> JobStatus:
        if uuid not in self.statuses:
            raise JobNotFound(f"no job {uuid}")
        return self.statuses[uuid]

    async def cancel(self, uuid: str) -> JobStatus:
        status = await self.job(uuid)
        if status.phase.final:
            raise NotCancellable(f"the job has {status.phase}")
        return replace(status, phase=Phase.CANCELLED)

    async def events(self, uuid: str) -> AsyncGenerator[JobStatus, None]:
        await self.job(uuid)
        try:
            async with aclosing(played(self.script)) as items:
                async for item in items:
                    yield item
        finally:
            self.ended.set()
