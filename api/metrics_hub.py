"""The controller's part in metrics: what every process has counted, added up, so that no counter goes back.

Neither the death of a process nor that of the controller takes a count away that was ever shown: a dead process's
counters stay, and what a scrape is answered with has been stored before.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from api.metrics_store import MetricsStore
from deployments.errors import NotReady
from deployments.samples import Samples, Snapshot, added, counts
from gallery.threads import in_thread

logger = logging.getLogger("manta.metrics")

SILENT_S = 40.0
"""The gauges of a process that has not been heard of for so long are left out; its counters stay."""
DEAD_S = 600.0
"""After so long they are added to those of all the dead: it won't come back, or it would count twice."""
SAVE_S = 5.0
"""How often changes are stored, scraped or not."""
STORED_S = 2.0
"""A scrape waits for no database that takes longer."""

THE_DEAD = ""
"""Stands for them as a source."""


@dataclass(slots=True)
class _Source:
    """One process, dead or alive."""

    last: Snapshot
    heard: float
    """By the hub's clock."""


class MetricsHub:
    """Takes snapshots of processes."""

    def __init__(self, store: MetricsStore, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now = now
        self._sources: dict[str, _Source] = {}
        self._unsaved: set[str] = set()
        self._gone: set[str] = set()  # sources that are one with the dead by now
        self._read = False
        self._writing = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Go on with what was counted before, also of models that are gone: what was shown once stays."""
        self._begin(self._look_after())

    async def stop(self) -> None:
        """What was counted last is stored."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.save()

    def take(self, snapshot: Snapshot) -> None:
        """One that has been overtaken says that its process lives, and nothing else."""
        source = self._sources.get(snapshot.source)
        if source is None or snapshot.number > source.last.number:
            source = self._sources[snapshot.source] = _Source(snapshot, 0.0)
            self._unsaved.add(snapshot.source)
            self._gone.discard(snapshot.source)
        source.heard = self._now()

    async def total(self) -> Samples:
        """All processes' samples, added up. Raises NotReady until it is known what was counted before."""
        if not self._read:
            raise NotReady("what was counted before the restart has not been read yet").after(1)
        since = self._now() - SILENT_S
        sources = self._sources.values()
        total = added(s.last.samples if s.heard >= since else counts(s.last.samples) for s in sources)
        await asyncio.wait([self._begin(self.save())], timeout=STORED_S)
        return total

    async def save(self) -> None:
        """Store what has changed. What can't be stored now is stored later."""
        async with self._writing:
            names, self._unsaved = self._unsaved, set()
            gone, self._gone = self._gone, set()
            if not names and not gone:
                return
            snapshots = [self._sources[name].last.counts() for name in names]
            try:
                await in_thread(self._store.save, snapshots, gone)
            except NotReady as error:
                logger.warning("what was counted could not be stored: %s", error.message)
                self._unsaved |= names & self._sources.keys()
                self._gone |= gone - self._sources.keys()

    def bury(self) -> None:
        """Add up those that have been silent for long."""
        since = self._now() - DEAD_S
        dead = [name for name, source in self._sources.items() if name != THE_DEAD and source.heard < since]
        if not dead:
            return
        buried = [self._sources.pop(name).last for name in (THE_DEAD, *dead) if name in self._sources]
        samples = added(counts(snapshot.samples) for snapshot in buried)
        self._sources[THE_DEAD] = _Source(Snapshot(THE_DEAD, 0, samples), 0.0)
        self._unsaved = (self._unsaved - set(dead)) | {THE_DEAD}
        self._gone |= set(dead)

    async def _look_after(self) -> None:
        while not self._read:
            await self._recall()
        while True:
            await asyncio.sleep(SAVE_S)
            self.bury()
            await self.save()

    async def _recall(self) -> None:
        """Models are served meanwhile, however long the database takes."""
        try:
            stored = await in_thread(self._store.load)
        except NotReady as error:
            logger.warning("what was counted before can't be read, trying again: %s", error.message)
            await asyncio.sleep(SAVE_S)
            return
        for snapshot in stored:
            known = self._sources.get(snapshot.source)
            if known is None or known.last.number < snapshot.number:
                self._sources[snapshot.source] = _Source(snapshot, self._now())
        self._read = True

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
