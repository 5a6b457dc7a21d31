"""The gallery without a server: what the command line does by itself, in the models directory of the settings."""

import asyncio
from contextlib import AsyncExitStack
from typing import Self

from deployments.errors import JobNotFound, MantaError, NotCancellable
from gallery.database import Database
from gallery.galleries import Galleries, Page
from gallery.install import Installer
from gallery.plan import resolve
from gallery.removal import remove
from gallery.request import InstallRequest
from gallery.settings import GallerySettings
from gallery.sources import Sources
from gallery.space import Space
from gallery.status import JobStatus, Progress
from gallery.store import GalleryStore


class ModelsDirectory:
    """Installs and removes in a directory: `async with ModelsDirectory(settings) as directory`."""

    after_interrupt = "What was fetched is kept for the next try."
    """What to know when the command is interrupted."""

    def __init__(self, settings: GallerySettings) -> None:
        self._settings = settings
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        settings = self._settings
        async with AsyncExitStack() as stack:
            self._store = GalleryStore(Database(settings.database_url))
            stack.callback(self._store.close)
            await asyncio.to_thread(self._store.open)
            self._sources = await stack.enter_async_context(Sources(settings.downloads))
            self._galleries = Galleries(self._store, self._sources, settings)
            await self._galleries.start()
            stack.push_async_callback(self._galleries.stop)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def available(self, search: str = "", tag: str = "", gallery: str = "") -> Page:
        """What can be installed. Raises GalleryNotFound."""
        return await self._galleries.available(search, tag, gallery)

    async def problems(self) -> dict[str, str]:
        """Gallery → why its index could not be read, or not wholly."""
        return self._galleries.problems()

    async def install(self, request: InstallRequest, progress: Progress) -> str:
        """Install, and return the model's name. Raises MantaError, and has then removed what it had fetched."""
        settings = self._settings
        plan = await resolve(request, self._sources, self._galleries)
        settings.models_path.mkdir(parents=True, exist_ok=True)
        space = Space(settings.models_path, settings.downloads.min_free, settings.downloads.limit)
        installer = Installer(settings.models_path, self._sources, settings.downloads, space)
        try:
            await installer.install(plan, progress)
        except MantaError:
            await installer.abandon(plan)
            raise
        return plan.name

    async def remove(self, name: str, progress: Progress) -> None:
        """Delete an installed model. Raises ModelNotFound."""
        await remove(name, self._settings.models_path, _NoServer(), progress)

    async def jobs(self) -> list[JobStatus]:
        """Those of the server, as it stored them last; oldest first."""
        return [record.status for record in await asyncio.to_thread(self._store.jobs)]

    async def cancel(self, uuid: str) -> JobStatus:
        """Have the server end a job when it runs again; the job's status until then.

        Raises JobNotFound and NotCancellable.
        """
        for status in await self.jobs():
            if status.uuid == uuid:
                if status.phase.final:
                    raise NotCancellable(f"job {uuid} has ended: {status.phase}")
                await asyncio.to_thread(self._store.set_cancelled, uuid)
                return status
        raise JobNotFound(f"could not find any status for ID {uuid!r}")


class _NoServer:
    """Nobody has the models loaded."""

    async def reload(self) -> None:
        """Nobody need know."""

    async def removed(self, name: str) -> None:
        """No replica of it runs."""
