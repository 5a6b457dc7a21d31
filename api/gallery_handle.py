"""The ingress's way to the gallery, by Ray."""

import asyncio
import uuid as uuids
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

from api.gallery_gateway import Offer, Wanted
from api.sole_replica import ANSWER_S, RETRY_S, Away, SoleReplica
from deployments.errors import NotReady, ReplicaDied
from gallery.request import InstallRequest
from gallery.settings import Gallery
from gallery.status import JobStatus


class GalleryHandle:
    """The gallery's replica (`gallery_gateway.GalleryGateway`). A job's uuid is made here: asking twice begins one."""

    def __init__(self, replica: SoleReplica) -> None:
        self._replica = replica

    async def apply(self, request: InstallRequest) -> str:
        uuid: str = await self._replica.ask("apply", request, str(uuids.uuid4()))
        return uuid

    async def delete(self, name: str) -> str:
        uuid: str = await self._replica.ask("delete", name, str(uuids.uuid4()))
        return uuid

    async def offer(self, wanted: Wanted) -> Offer:
        offer: Offer = await self._replica.ask("offer", wanted)
        return offer

    async def reload(self) -> None:
        await self._replica.ask("reload")

    async def galleries(self) -> list[Gallery]:
        galleries: list[Gallery] = await self._replica.ask("galleries")
        return galleries

    async def problems(self) -> dict[str, str]:
        problems: dict[str, str] = await self._replica.ask("problems")
        return problems

    async def add_gallery(self, gallery: Gallery) -> list[Gallery]:
        galleries: list[Gallery] = await self._replica.tell("add_gallery", gallery)
        return galleries

    async def remove_gallery(self, name: str) -> list[Gallery]:
        galleries: list[Gallery] = await self._replica.tell("remove_gallery", name)
        return galleries

    async def jobs(self) -> dict[str, JobStatus]:
        jobs: dict[str, JobStatus] = await self._replica.ask("jobs")
        return jobs

    async def job(self, uuid: str) -> JobStatus:
        status: JobStatus = await self._replica.ask("job", uuid)
        return status

    async def cancel(self, uuid: str) -> JobStatus:
        status: JobStatus = await self._replica.tell("cancel", uuid)
        return status

    async def events(self, uuid: str) -> AsyncGenerator[JobStatus, None]:
        """A gallery that goes and comes back within ANSWER_S is asked again: its first word is how things stand."""
        now = asyncio.get_running_loop().time
        away_since = None
        while away_since is None or now() - away_since < ANSWER_S:
            with suppress(Away, ReplicaDied):
                async with aclosing(self._replica.stream("events", uuid)) as statuses:
                    status = await _first(statuses)
                    while status is not None:
                        away_since = None
                        yield status
                        if status.phase.final:
                            return
                        status = await anext(statuses, None)
            away_since = away_since or now()
            await asyncio.sleep(RETRY_S)
        raise _no_answer()


async def _first(statuses: AsyncGenerator[Any, None]) -> JobStatus | None:
    """The first one comes at once, if at all."""
    try:
        async with asyncio.timeout(ANSWER_S):
            return await anext(statuses, None)
    except TimeoutError:
        raise _no_answer() from None


def _no_answer() -> NotReady:
    return NotReady("the gallery does not answer").after(5)
