"""The gallery as one object: what its routes ask for, whatever process it runs in."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, aclosing
from pathlib import Path

from deployments.errors import MantaError, ModelNotFound
from deployments.metrics import GALLERY_JOBS
from gallery.database import Database
from gallery.galleries import Galleries, Page
from gallery.install import Installer
from gallery.job import Work
from gallery.jobs import Jobs
from gallery.records import yaml_path
from gallery.removal import Models, plan_removal
from gallery.request import InstallRequest
from gallery.settings import Gallery as GalleryAddress
from gallery.settings import GallerySettings
from gallery.sources import Sources
from gallery.space import Space
from gallery.status import JobStatus, Phase
from gallery.store import GalleryStore
from gallery.work import Completion, Deletion, Installation, Preload, asked_name, incomplete

logger = logging.getLogger("manta.gallery")

INSTALL, PRELOAD, COMPLETE, DELETE = "install", "preload", "complete", "delete"
"""Kinds of jobs, as they are stored."""


class Gallery:
    """Galleries, jobs and downloads. Runs on one event loop; there is one of it for a models directory."""

    def __init__(self, settings: GallerySettings, models: Models) -> None:
        """Opens nothing yet. Raises ConfigInvalid for a `database_url` that can't be one."""
        self._settings = settings
        self._store = GalleryStore(Database(settings.database_url))
        sources = Sources(settings.downloads)
        self._galleries = Galleries(self._store, sources, settings)
        space = Space(settings.models_path, settings.downloads.min_free, settings.downloads.limit)
        installer = Installer(settings.models_path, sources, settings.downloads, space)
        installation = sources, self._galleries, installer, models
        works: dict[str, Work] = {
            INSTALL: Installation(*installation),
            PRELOAD: Preload(*installation, settings.models_path),
            COMPLETE: Completion(*installation, settings.models_path),
            DELETE: Deletion(settings.models_path, models),
        }
        self._jobs = Jobs(self._store, works, settings.parallel_jobs)
        self._sources = sources
        self._phases: Counter[Phase] = Counter()
        self._open = AsyncExitStack()

    async def start(self) -> None:
        """Open the database, go on with the unfinished jobs, and begin what the settings want installed.

        Raises ConfigInvalid or NotReady when the database can't be used.
        """
        async with AsyncExitStack() as opening:
            await asyncio.to_thread(self._settings.models_path.mkdir, parents=True, exist_ok=True)
            opening.push_async_callback(asyncio.to_thread, self._store.close)
            await asyncio.to_thread(self._store.open)
            await opening.enter_async_context(self._sources)
            opening.push_async_callback(self._galleries.stop)
            await self._galleries.start()
            opening.push_async_callback(self._jobs.stop)
            await self._jobs.start()
            self._open = opening.pop_all()
        for request in self._settings.preload:
            await self._preload(request)
        await self.reload()

    async def stop(self) -> None:
        """Interrupt the running jobs, which stay unfinished in the database, and close everything."""
        await self._open.aclose()

    # ---- jobs ----

    async def apply(self, request: InstallRequest, uuid: str = "") -> str:
        """Begin an installation; the uuid of its job, at once. Mistakes of the request show in the job.

        With a `uuid` of the caller's a second call does no harm.
        """
        return await self._jobs.submit(INSTALL, request.to_json(), uuid)

    async def delete(self, name: str, uuid: str = "") -> str:
        """Begin the deletion of an installed model, as `apply`.

        Raises ModelNotFound, and ConfigInvalid for a model that can't be deleted alone.
        """
        try:
            await plan_removal(name, self._settings.models_path)
        except ModelNotFound:  # unless it will be there by then
            if all(job.model != name and job.uuid != uuid for job in self._jobs.unfinished()):
                raise
        return await self._jobs.submit(DELETE, {"name": name}, uuid)

    async def jobs(self) -> dict[str, JobStatus]:
        """uuid → job: all that haven't ended, and those that ended in the last days; in order of submission."""
        return self._jobs.statuses()

    async def job(self, uuid: str) -> JobStatus:
        """Raises JobNotFound."""
        return self._jobs.status(uuid)

    async def cancel(self, uuid: str) -> JobStatus:
        """End a job and remove what it fetched; its last status. Raises JobNotFound and NotCancellable."""
        return await self._jobs.cancel(uuid)

    async def events(self, uuid: str) -> AsyncGenerator[JobStatus, None]:
        """A job's status now and whenever it changes, at most 4 a second, to the last one. Raises JobNotFound.

        Ends without the last one when the gallery stops.
        """
        async with aclosing(self._jobs.watch(uuid)) as statuses:
            async for status in statuses:
                yield status

    def count_jobs(self) -> None:
        """Bring the metric of how many jobs are in which phase up to date, where anything has changed."""
        phases = Counter(job.status().phase for job in self._jobs.unfinished())
        for phase in Phase:
            if phases[phase] != self._phases[phase]:
                GALLERY_JOBS.labels(phase.value).set(phases[phase])
        self._phases = phases

    # ---- galleries ----

    async def available(
        self, search: str = "", tag: str = "", gallery: str = "", offset: int = 0, limit: int | None = None
    ) -> Page:
        """What can be installed, in the galleries' order. Raises GalleryNotFound."""
        return await self._galleries.available(search, tag, gallery, offset, limit)

    async def problems(self) -> dict[str, str]:
        """Gallery → why its index could not be read, or not wholly, when it was last tried."""
        return self._galleries.problems()

    async def galleries(self) -> list[GalleryAddress]:
        """In the order in which they are searched."""
        return self._galleries.registered()

    async def add_gallery(self, gallery: GalleryAddress) -> list[GalleryAddress]:
        """The new list. Raises AlreadyExists, and InvalidRequest for a name that can't be one."""
        await self._galleries.add(gallery)
        return self._galleries.registered()

    async def remove_gallery(self, name: str) -> list[GalleryAddress]:
        """The new list. Raises GalleryNotFound."""
        await self._galleries.remove(name)
        return self._galleries.registered()

    # ---- what is wanted without being asked for ----

    async def reload(self) -> None:
        """Begin to fetch the files that configs in the models directory name and that aren't there."""
        for request in await asyncio.to_thread(incomplete, self._settings.models_path):
            await self._begin(COMPLETE, request)

    async def _preload(self, request: InstallRequest) -> None:
        """Begin it unless the model is there, whose name may be known from the last time alone."""
        before = self._jobs.of(request.to_json())
        names = {asked_name(request)} | {job.model for job in before if job.status().phase is Phase.COMPLETED}
        yamls = [yaml_path(self._settings.models_path, name) for name in names if name]
        if not await asyncio.to_thread(_any_exists, yamls):
            await self._begin(PRELOAD, request)

    async def _begin(self, kind: str, request: InstallRequest) -> None:
        """Unless a job from before is at it. That it can't be stored stops nothing else."""
        values = request.to_json()
        if any(not job.ended.is_set() for job in self._jobs.of(values)):
            return
        try:
            await self._jobs.submit(kind, values)
        except MantaError as error:
            logger.warning("%s could not be installed: %s", asked_name(request) or values, error.message)


def _any_exists(paths: list[Path]) -> bool:
    return any(path.exists() for path in paths)
