"""Short blocking jobs in threads: those of one turn of the event loop share a thread's start and end."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from deployments.gathering import Gathering

T = TypeVar("T")


class _Job(NamedTuple):
    work: Callable[[], Any]
    done: asyncio.Future[Any]


class ThreadJobs:
    """To hand one job to a thread costs a tenth of a millisecond, and takes the interpreter from the others twice."""

    def __init__(self) -> None:
        self._gathering: Gathering[_Job] = Gathering(_start)

    async def run(self, work: Callable[[], T]) -> T:
        """The result of `work`, or what it raises. Jobs of the same turn run one after the other."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._gathering.add(_Job(work, done))
        return await done


def _start(jobs: list[_Job]) -> None:
    running = asyncio.get_running_loop().run_in_executor(None, _results, [job.work for job in jobs])
    running.add_done_callback(partial(_ended, jobs))


def _results(works: list[Callable[[], Any]]) -> list[Any]:
    return [_result(work) for work in works]


def _result(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:  # noqa: BLE001 – raised where its result is awaited
        return _Failed(error)


class _Failed(NamedTuple):
    error: Exception


def _ended(jobs: list[_Job], running: asyncio.Future[list[Any]]) -> None:
    if running.cancelled():  # the loop is being closed
        return
    for job, result in zip(jobs, running.result(), strict=True):
        if job.done.done():
            continue
        if isinstance(result, _Failed):
            job.done.set_exception(result.error)
        else:
            job.done.set_result(result)
