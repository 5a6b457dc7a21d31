"""Blocking calls in threads: whose turn it is, how many may wait, and what happens when somebody leaves."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable

import pytest

from deployments.engine_threads import EngineThreads, Stopped
from deployments.errors import EngineError, InvalidRequest, Overloaded
from tests.unit.waiting import until


class Call:
    """A call that a test holds still and lets go on. It ends by itself when nobody waits for it any more."""

    def __init__(self, log: list[str], name: str) -> None:
        self._log, self._name = log, name
        self.go_on = threading.Event()
        self.stopped = False

    def __call__(self, stopped: Stopped) -> str:
        self._log.append(self._name)
        while not self.go_on.wait(0.005):
            if stopped():
                self.stopped = True
                break
        return self._name


@pytest.fixture
async def threads() -> AsyncIterator[Callable[..., EngineThreads]]:
    made: list[EngineThreads] = []

    def make(count: int = 1, max_queued: int | None = None) -> EngineThreads:
        made.append(EngineThreads(count, max_queued))
        return made[-1]

    yield make
    for one in made:
        one.close()


Make = Callable[..., EngineThreads]


async def test_gives_what_the_call_returns_and_raises_what_it_raises(threads: Make) -> None:
    def bad(stopped: Stopped) -> str:
        raise InvalidRequest("no")

    one = threads()
    assert await one.run(lambda stopped: threading.current_thread().name, "") != threading.current_thread().name
    with pytest.raises(InvalidRequest, match="no"):
        await one.run(bad, "")
    assert await one.run(lambda stopped: 1, "") == 1
    assert one.stats() == {"slots_busy": 0, "queued": 0}


async def test_as_many_run_at_once_as_there_are_threads_and_tenants_take_turns(threads: Make) -> None:
    log: list[str] = []
    calls = {name: Call(log, name) for name in ("a1", "a2", "a3", "a4", "b1")}
    two = threads(2)
    tasks = {name: asyncio.create_task(two.run(call, name[0])) for name, call in calls.items()}
    await until(lambda: len(log) == 2)
    assert two.stats() == {"slots_busy": 2, "queued": 3}
    calls["a1"].go_on.set()
    await until(lambda: len(log) == 3)
    calls["a2"].go_on.set()
    await until(lambda: len(log) == 4)
    assert set(log[:2]) == {"a1", "a2"}
    assert "b1" in log[2:4], "it came last, but its tenant had no turn yet"
    for call in calls.values():
        call.go_on.set()
    assert await asyncio.gather(*tasks.values()) == list(calls)


async def test_who_leaves_while_waiting_is_dropped(threads: Make) -> None:
    log: list[str] = []
    one = threads()
    first, second = Call(log, "first"), Call(log, "second")
    running = asyncio.create_task(one.run(first, ""))
    waiting = asyncio.create_task(one.run(second, ""))
    await until(lambda: log == ["first"] and one.stats()["queued"] == 1)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert one.stats() == {"slots_busy": 1, "queued": 0}
    first.go_on.set()
    assert await running == "first"
    assert log == ["first"]


async def test_a_call_that_nobody_waits_for_is_told_and_holds_its_thread_until_it_ends(threads: Make) -> None:
    log: list[str] = []
    one = threads()
    call = Call(log, "call")
    running = asyncio.create_task(one.run(call, ""))
    await until(lambda: log == ["call"])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert one.stats()["slots_busy"] == 1
    assert await one.run(lambda stopped: "next", "") == "next"
    assert call.stopped


async def test_the_error_of_a_call_that_nobody_waits_for_is_nobodys(threads: Make) -> None:
    def fails(stopped: Stopped) -> None:
        while not stopped():
            pass
        raise EngineError("stopped")

    one = threads()
    running = asyncio.create_task(one.run(fails, ""))
    await until(lambda: one.stats()["slots_busy"] == 1)
    running.cancel()
    assert await one.run(lambda stopped: "next", "") == "next"


async def test_no_more_wait_than_may(threads: Make) -> None:
    log: list[str] = []
    one = threads(1, max_queued=1)
    calls = [Call(log, str(place)) for place in range(2)]
    tasks = [asyncio.create_task(one.run(call, "")) for call in calls]
    await until(lambda: one.stats() == {"slots_busy": 1, "queued": 1})
    with pytest.raises(Overloaded, match="1 requests already wait"):
        await one.run(lambda stopped: 0, "")
    for call in calls:
        call.go_on.set()
    assert await asyncio.gather(*tasks) == ["0", "1"]


async def test_an_idle_thread_takes_a_call_where_none_may_wait(threads: Make) -> None:
    assert await threads(1, max_queued=0).run(lambda stopped: 5, "") == 5


async def test_closing_ends_everybodys_wait(threads: Make) -> None:
    log: list[str] = []
    one = threads()
    calls = [Call(log, str(place)) for place in range(2)]
    tasks = [asyncio.create_task(one.run(call, "")) for call in calls]
    await until(lambda: one.stats() == {"slots_busy": 1, "queued": 1})
    one.close()
    for task in tasks:
        with pytest.raises(EngineError, match="unloaded"):
            await task
    assert log == ["0"]
    assert calls[0].stopped
    with pytest.raises(EngineError, match="unloaded"):
        await one.run(lambda stopped: 0, "")
    one.close()
