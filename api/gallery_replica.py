"""The gallery as a Serve deployment. Only its own process imports this: it brings all that downloads need.

It is the one of which there is one, so it also removes generated files that have become too old, and what is left of
uploads that came to nothing.
"""

import asyncio

from ray.serve.handle import DeploymentHandle

from api.files import Files, sweep_for_ever
from api.gallery_gateway import Offer, Wanted
from api.records import Records
from api.request_log import configure_logging
from api.schemas.gallery import to_listed_model
from api.sole_replica import SoleReplica
from deployments.metrics_push import MetricsPush
from gallery.actor import Gallery
from gallery.blobs import BlobSettings, expire_for_ever, generated_images, uploads
from gallery.settings import GallerySettings

UNLOADED_S = 3600.0
"""A model that goes first finishes what runs on it."""


class GalleryReplica(Gallery):
    """The one gallery of the server."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: GallerySettings, controller: DeploymentHandle, blobs: BlobSettings, log_level: str
    ) -> None:
        configure_logging(log_level)
        super().__init__(settings, ServedModels(SoleReplica(controller, "the model controller")))
        self._blobs = generated_images(blobs)
        self._files = Files(Records(settings.database_url), uploads(blobs))
        await self.start()
        self._push = MetricsPush(controller.report_metrics.remote, self.count_jobs, process="gallery")
        self._removal = (
            asyncio.create_task(expire_for_ever(self._blobs), name="expire blobs"),
            asyncio.create_task(sweep_for_ever(self._files), name="sweep uploads"),
        )
        # Serve awaits `__del__` when the replica is to end. On the instance the interpreter never calls it, unawaited.
        self.__del__ = self.stop

    async def stop(self) -> None:
        await self._push.stop()
        for task in self._removal:
            task.cancel()
        await asyncio.gather(*self._removal, return_exceptions=True)
        await self._blobs.close()
        await self._files.close()
        await super().stop()

    async def offer(self, wanted: Wanted) -> Offer:
        """A page of what can be installed, as JSON."""
        page = await self.available(wanted.search, wanted.tag, wanted.gallery, wanted.offset, wanted.limit)
        return Offer([to_listed_model(item) for item in page.items], page.total, tuple(await self.problems()))


class ServedModels:
    """The server's models (`gallery.removal.Models`), whose states the controller knows."""

    def __init__(self, controller: SoleReplica) -> None:
        self._controller = controller

    async def reload(self) -> None:
        await self._controller.ask("reload")

    async def removed(self, name: str) -> None:
        await self._controller.ask("removed", name, timeout=UNLOADED_S)
