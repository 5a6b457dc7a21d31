"""Jobs that share a thread: each has its own result, none runs on the event loop."""

import asyncio
import threading

import pytest

from deployments.thread_jobs import ThreadJobs


async def test_jobs_of_a_turn_share_a_thread() -> None:
    jobs = ThreadJobs()
    threads = await asyncio.gather(*(jobs.run(threading.get_ident) for _ in range(5)))
    assert len(set(threads)) == 1
    assert threads[0] != threading.get_ident()


async def test_one_fails_alone() -> None:
    jobs = ThreadJobs()
    good, bad = await asyncio.gather(jobs.run(lambda: 1), jobs.run(lambda: {}["no"]), return_exceptions=True)
    assert good == 1
    assert isinstance(bad, KeyError)


async def test_who_leaves_takes_nobody_along() -> None:
    jobs = ThreadJobs()
    held = threading.Event()
    first, second = asyncio.create_task(jobs.run(held.wait)), asyncio.create_task(jobs.run(lambda: 2))
    await asyncio.sleep(0)
    first.cancel()
    held.set()
    async with asyncio.timeout(5):
        assert await second == 2
        with pytest.raises(asyncio.CancelledError):
            await first
