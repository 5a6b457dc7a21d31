"""The thread of an engine that batches: jobs come in from event loops, steps are made, tokens go back."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from deployments.backends.jobs import Job, Output
from deployments.errors import EngineError, MantaError

log = logging.getLogger("manta.engine")

FATAL_FAILURES = 3
"""Steps in a row that failed: the engine is broken, not a request."""


J = TypeVar("J", bound=Job)
J_contra = TypeVar("J_contra", bound=Job, contravariant=True)


class Stepper(Protocol[J_contra]):
    """A queue of jobs and the steps that serve it. Everything but `stats` is called from the engine's thread."""

    failures: int
    """Steps in a row in which the model failed."""

    @property
    def idle(self) -> bool:
        """There is nothing to do until the next `submit`."""
        ...

    def submit(self, job: J_contra) -> None: ...

    def step(self) -> Iterable[Output]: ...

    def fail_all(self, error: MantaError) -> list[Output]:
        """End every job, running or waiting."""
        ...

    def stats(self) -> dict[str, float]: ...


class EngineLoop(Generic[J]):
    """Runs the steps until it is closed, or the engine is broken."""

    def __init__(self, stepper: Stepper[J], name: str, release: Callable[[], None]) -> None:
        """`release` frees the engine's memory: the last thing that the thread does."""
        self._stepper = stepper
        self._release = release
        self._inbox: deque[J] = deque()
        self._inbox_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._failure: EngineError | None = None
        """Why no more jobs are taken."""
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises EngineError when no more jobs are taken."""
        if self._failure is not None:
            raise EngineError(self._failure.message)

    def submit(self, job: J) -> None:
        """Raises as `check`; then the job's sampler is closed."""
        with self._inbox_lock:
            if self._failure is not None:
                job.sampler.close()
            self.check()
            self._inbox.append(job)
        self._wake.set()

    def cancel(self, job: Job) -> None:
        """Nobody waits for it any more. No harm when it has ended."""
        job.cancelled = True
        self._wake.set()

    def stats(self) -> dict[str, float]:
        stats = self._stepper.stats()
        stats["queued"] += len(self._inbox)
        stats["failed"] = float(self._failure is not None)
        return stats

    def close(self, interrupt: Callable[[], None] | None = None) -> None:
        """Returns when the thread has ended; `interrupt` cuts the running step short. Idempotent."""
        self._closing = True
        if interrupt is not None:
            interrupt()
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        failures = 0
        while not self._closing and max(failures, self._stepper.failures) < FATAL_FAILURES:
            while self._inbox:
                self._stepper.submit(self._inbox.popleft())
            if self._stepper.idle:
                self._wake.wait()
                self._wake.clear()
                continue
            outputs: list[Output] = []
            try:
                outputs.extend(self._stepper.step())  # keeps what came before an exception
                failures = 0
            except Exception as error:
                log.exception("the decoding loop failed")
                failures += 1
                outputs += self._stepper.fail_all(EngineError(f"the decoding loop failed: {error}"))
            _deliver(outputs)
        self._end(EngineError("the engine was closed" if self._closing else "the engine failed and has stopped"))

    def _end(self, reason: EngineError) -> None:
        """Answer everybody, also those who come too late."""
        with self._inbox_lock:
            self._failure = reason
        while self._inbox:
            self._stepper.submit(self._inbox.popleft())
        _deliver(self._stepper.fail_all(reason))
        self._release()


def _deliver(outputs: list[Output]) -> None:
    """Wake each event loop once, with everything that a step has for it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Output]] = {}
    for output in outputs:
        by_loop.setdefault(output.job.stream.loop, []).append(output)
    for loop, share in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put, share)
        except RuntimeError:  # the loop is closed: nobody is left to read
            for output in share:
                output.job.cancelled = True


def _put(outputs: list[Output]) -> None:
    for job, token, finish_reason, error in outputs:
        job.stream.put(token, finish_reason, error)
