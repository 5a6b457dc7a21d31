"""The engine's thread, with steps that are no model's."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from deployments.backends.base import Token
from deployments.backends.engine_loop import FATAL_FAILURES, EngineLoop
from deployments.backends.jobs import Job, Output
from deployments.backends.token_stream import TokenStream
from deployments.errors import EngineError, MantaError


class Counting:
    """Each job's answer is its limit, counted down. What it is told goes wrong does."""

    def __init__(self) -> None:
        self.failures = 0
        self.jobs: list[Job] = []
        self.breaks: Callable[[], None] | None = None
        self.released = 0

    @property
    def idle(self) -> bool:
        return not self.jobs

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def step(self) -> Iterator[Output]:
        self.jobs = [job for job in self.jobs if not job.cancelled]
        if self.breaks:
            self.breaks()
        for job in list(self.jobs):
            job.limit -= 1
            if job.limit == 0:
                self.jobs.remove(job)
            yield Output(job, Token(job.limit, b""), "length" if job.limit == 0 else None)

    def fail_all(self, error: MantaError) -> list[Output]:
        outputs = [Output(job, error=error) for job in self.jobs]
        self.jobs = []
        return outputs

    def stats(self) -> dict[str, float]:
        return {"queued": 0}

    def release(self) -> None:
        self.released += 1


@pytest.fixture
async def stepper() -> Counting:
    return Counting()


@pytest.fixture
async def loop(stepper: Counting) -> AsyncIterator[EngineLoop[Job]]:
    loop: EngineLoop[Job] = EngineLoop(stepper, "test", stepper.release)
    yield loop
    await asyncio.to_thread(loop.close)


class Sampler:
    """Of a job whose tokens are counted, not sampled."""

    finished = False
    closed = False

    def next(self, row: int) -> Token | None:
        raise AssertionError(row)

    def close(self) -> None:
        self.closed = True


def job(limit: int, sampler: Sampler | None = None) -> Job:
    return Job([], limit, sampler or Sampler(), TokenStream(asyncio.get_running_loop()))


async def ids(one: Job) -> list[int]:
    return [token.id async for group in one.stream.groups() for token in group.tokens]


async def test_tokens_come_back(loop: EngineLoop[Job]) -> None:
    jobs = [job(3), job(5)]
    for one in jobs:
        loop.submit(one)
    assert await asyncio.gather(*map(ids, jobs)) == [[2, 1, 0], [4, 3, 2, 1, 0]]
    assert loop.stats() == {"queued": 0, "failed": 0}


async def test_a_cancelled_job_wakes_the_engine(loop: EngineLoop[Job], stepper: Counting) -> None:
    one = job(10**9)
    loop.submit(one)
    async for _ in one.stream.groups():
        break
    loop.cancel(one)
    async with asyncio.timeout(5):
        while not stepper.idle:
            await asyncio.sleep(0)


async def test_an_unforeseen_exception_ends_what_ran(loop: EngineLoop[Job], stepper: Counting) -> None:
    def fail() -> None:
        stepper.breaks = None
        raise ZeroDivisionError("unforeseen")

    stepper.breaks = fail
    one = job(3)
    loop.submit(one)
    with pytest.raises(EngineError, match="unforeseen"):
        await ids(one)
    other = job(1)
    loop.submit(other)
    assert await ids(other) == [0]


async def test_failure_after_failure_stops_the_engine(loop: EngineLoop[Job], stepper: Counting) -> None:
    stepper.failures = FATAL_FAILURES - 1

    def fail() -> None:
        stepper.failures += 1

    stepper.breaks = fail
    one = job(3)
    loop.submit(one)
    with pytest.raises(EngineError, match="has stopped"):
        await ids(one)
    late = Sampler()
    with pytest.raises(EngineError, match="has stopped"):
        loop.submit(job(1, late))
    assert late.closed
    assert loop.stats()["failed"] == 1


async def test_closing_answers_everybody_and_frees_once(loop: EngineLoop[Job], stepper: Counting) -> None:
    one = job(10**9)
    loop.submit(one)
    await asyncio.to_thread(loop.close)
    await asyncio.to_thread(loop.close)
    with pytest.raises(EngineError, match="closed"):
        await ids(one)
    with pytest.raises(EngineError, match="closed"):
        loop.check()
    assert stepper.released == 1
