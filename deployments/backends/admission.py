"""Who may enter an engine that has its own scheduler: so many at once, the others wait and tenants take turns."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deployments.backends.fair_queue import FairQueue


@dataclass(slots=True, eq=False)
class _Waiting:
    tenant: str
    admitted: asyncio.Future[None]


class Admission:
    """All methods belong to one event loop."""

    def __init__(self, slots: int) -> None:
        self.busy = 0
        """Slots taken."""
        self.slots = slots
        self._queue: FairQueue[_Waiting] = FairQueue()

    @property
    def queued(self) -> int:
        return len(self._queue)

    @asynccontextmanager
    async def slot(self, tenant: str) -> AsyncIterator[float]:
        """Wait for a slot, and hold it. Gives the seconds that it waited."""
        arrived = time.perf_counter()
        await self._enter(tenant)
        try:
            yield time.perf_counter() - arrived
        finally:
            self._leave()

    async def _enter(self, tenant: str) -> None:
        if self.busy < self.slots:
            self.busy += 1
            return
        waiting = _Waiting(tenant, asyncio.get_running_loop().create_future())
        self._queue.push(waiting)
        try:
            await waiting.admitted
        except asyncio.CancelledError:
            if waiting.admitted.done() and not waiting.admitted.cancelled():
                self._leave()  # it was given the slot in the moment in which it left
            else:
                self._queue.discard(lambda one: one is waiting)
            raise

    def _leave(self) -> None:
        """Hand the slot to who is next."""
        if (waiting := next(iter(self._queue), None)) is None:
            self.busy -= 1
            return
        self._queue.take(waiting)
        waiting.admitted.set_result(None)
