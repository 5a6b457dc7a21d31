"""Blocking calls of an engine: in threads of their own, tenants in turn, and told when nobody waits any more."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from deployments.arrival import Arrival
from deployments.backends.fair_queue import FairQueue
from deployments.errors import EngineError, Overloaded

T = TypeVar("T")

Stopped = Callable[[], bool]
"""Whether nobody waits for the call's result any more."""


@dataclass(slots=True, eq=False)
class _Job(Arrival):
    call: Callable[[Stopped], Any]
    tenant: str
    answer: asyncio.Future[Any]
    left: threading.Event = field(default_factory=threading.Event)


class EngineThreads:
    """All methods belong to the replica's event loop."""

    def __init__(
        self, threads: int, max_queued: int | None = None, waited: Callable[[float], None] | None = None
    ) -> None:
        """`max_queued`: calls that may wait; None or less than 0: no limit. `waited` is told the seconds that each call
        has waited when it begins."""
        self._threads = ThreadPoolExecutor(threads, "engine")
        self.count = threads
        self._waited = waited
        self._busy = 0
        self._max_queued = -1 if max_queued is None else max_queued
        self._queue: FairQueue[_Job] = FairQueue()
        self._jobs: set[_Job] = set()
        self._closed = False

    async def run(self, call: Callable[[Stopped], T], tenant: str) -> T:
        """What `call` returns or raises. When this is cancelled, a call that waits is dropped, one that runs is told.

        Raises Overloaded where too many wait, EngineError when the engine is closed.
        """
        if self._closed:
            raise EngineError("the model was unloaded")
        if self._busy == self.count and 0 <= self._max_queued <= len(self._queue):
            raise Overloaded(f"{self._max_queued} requests already wait for this model").after(1)
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        job = _Job(call, tenant, answer, waited=self._waited)
        self._jobs.add(job)
        self._queue.push(job)
        self._start()
        try:
            return await answer
        finally:
            job.left.set()
            self._jobs.discard(job)
            if not job.started:
                self._queue.discard(lambda waiting: waiting is job)

    def stats(self) -> dict[str, float]:
        """`slots_busy`: calls that run, those among them that nobody waits for included. `queued`: that wait."""
        return {"slots_busy": self._busy, "queued": len(self._queue)}

    def close(self) -> None:
        """Whoever waits gets EngineError; returns when what runs has ended. Idempotent."""
        self._closed = True
        jobs, self._jobs = self._jobs, set()  # whoever leaves meanwhile takes its job out of the new one
        for job in jobs:
            job.left.set()
            if not job.answer.done() and not job.answer.get_loop().is_closed():
                job.answer.set_exception(EngineError("the model was unloaded"))
        self._threads.shutdown()

    def _start(self) -> None:
        """Fill the idle threads."""
        loop = asyncio.get_running_loop()
        while self._busy < self.count and not self._closed and (job := next(iter(self._queue), None)):
            self._queue.take(job)
            job.start()
            self._busy += 1
            running = loop.run_in_executor(self._threads, job.call, job.left.is_set)
            running.add_done_callback(partial(self._ended, job))

    def _ended(self, job: _Job, running: asyncio.Future[Any]) -> None:
        self._busy -= 1
        self._start()
        error = running.exception()
        if job.answer.done():  # the client has left, or the model was unloaded
            return
        if error:
            job.answer.set_exception(error)
        else:
            job.answer.set_result(running.result())
