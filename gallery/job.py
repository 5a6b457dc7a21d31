"""One job: the work that it does, what that reports, and the status that comes of it."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from gallery.status import JobStatus, Phase, Progress
from gallery.store import JobRecord

RATE_WINDOW_S = 10.0
"""The rate is that of the last so many seconds."""
_SAMPLE_S = 0.25
"""Seconds that one sample of the rate stands for."""


class Work(Protocol):
    """What jobs of one kind do. Requests and plans are JSON, for the database."""

    deletion: bool
    downloads: bool
    """Takes one of the places of `parallel_jobs`."""

    def model(self, request: dict[str, Any]) -> str:
        """The model's name, as far as the request says it; it stays so unless the plan says otherwise."""
        ...

    async def plan(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Look up what is to be done; `name` is the model's. None: nothing. Writes nothing."""
        ...

    async def prepare(self, plan: dict[str, Any], progress: Progress) -> None:
        """Do what can be taken back. After a kill it is called again, and goes on from where it stood."""
        ...

    async def commit(self, plan: dict[str, Any], progress: Progress) -> None:
        """Do what can't. After a kill it is called again, after `prepare`."""
        ...

    async def abandon(self, plan: dict[str, Any]) -> None:
        """Remove what `prepare` left of a job that failed or was cancelled."""
        ...


class Rate:
    """Bytes a second, over the last seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, int]] = deque()  # (when it began, bytes since)

    def add(self, size: int) -> None:
        now = self._clock()
        if self._samples and now - self._samples[-1][0] < _SAMPLE_S:
            began, so_far = self._samples[-1]
            self._samples[-1] = began, so_far + size
        else:
            self._samples.append((now, size))
        self._drop(now)

    def value(self) -> float:
        now = self._clock()
        self._drop(now)
        if not self._samples:
            return 0.0
        return sum(size for _, size in self._samples) / max(now - self._samples[0][0], _SAMPLE_S)

    def _drop(self, now: float) -> None:
        while self._samples and now - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()


class Job:
    """A job, and the `Progress` that its work reports to, from any thread."""

    def __init__(self, record: JobRecord) -> None:
        self.number = record.number
        self.kind = record.kind
        self.request = record.request
        self.plan: dict[str, Any] | None = record.plan
        self.cancelled = record.cancelled
        """It was asked to end."""
        self.begun = record.plan is not None and record.status.phase is not Phase.QUEUED
        """Its work may have left something on the disk."""
        self.committing = False
        """What it does now can't be taken back."""
        self.work: asyncio.Task[bool] | None = None
        self.ended = asyncio.Event()
        self._status = record.status
        self._files: dict[str, tuple[int, int]] = {}  # name → bytes there, bytes in all
        self._rate = Rate()
        self._lock = threading.Lock()
        if record.status.phase.final:
            self.ended.set()

    @property
    def uuid(self) -> str:
        return self._status.uuid

    @property
    def model(self) -> str:
        return self._status.model

    def status(self) -> JobStatus:
        with self._lock:
            if self._status.phase is not Phase.DOWNLOADING:
                return self._status
            rate = self._rate.value()
            left = self._status.total_bytes - self._status.current_bytes
            known = rate > 0 and all(size for _, size in self._files.values())
            return replace(self._status, rate=rate, eta=left / rate if known else None)

    def named(self, model: str) -> None:
        self._change(model=model)

    def end(self, status: JobStatus) -> None:
        """Show its last status; `watch` and `cancel` wait for it."""
        with self._lock:
            self._status = status
        self.plan = None
        self.ended.set()

    # ---- Progress ----

    def phase(self, phase: Phase) -> None:
        self._change(phase=phase)

    def expect(self, sizes: Mapping[str, int]) -> None:
        with self._lock:
            self._files = {name: (self._files.get(name, (0, 0))[0], size) for name, size in sizes.items()}
            self._count()

    def at(self, filename: str, done: int, total: int) -> None:
        with self._lock:
            before = self._files.get(filename)
            # What is there at the first report was there before, or is all there is to a small file.
            if before and before[0]:
                self._rate.add(max(0, done - before[0]))
            self._files[filename] = done, total or (before[1] if before else 0)
            self._count(filename)

    def warn(self, message: str) -> None:
        with self._lock:
            if message not in self._status.warnings:  # a resumed job says it again
                self._status = replace(self._status, warnings=(*self._status.warnings, message), updated=time.time())

    def _change(self, **fields: Any) -> None:
        with self._lock:
            self._status = replace(self._status, **fields, updated=time.time())

    def _count(self, filename: str | None = None) -> None:
        """Bring the sums of all files up to date. Under the lock."""
        self._status = replace(
            self._status,
            current_bytes=sum(done for done, _ in self._files.values()),
            total_bytes=sum(max(done, total) for done, total in self._files.values()),
            file_name=self._status.file_name if filename is None else filename,
            updated=time.time(),
        )
