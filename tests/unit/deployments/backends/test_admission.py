"""Slots of an engine, handed on in turns."""

import asyncio

from deployments.backends.admission import Admission


async def hold(admission: Admission, tenant: str, entered: list[str], leave: asyncio.Event) -> None:
    async with admission.slot(tenant):
        entered.append(tenant)
        await leave.wait()


async def turns() -> None:
    """Let every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_no_more_than_the_slots_are_in_and_tenants_take_turns() -> None:
    admission, entered, leave = Admission(1), list[str](), asyncio.Event()
    first = asyncio.create_task(hold(admission, "first", entered, leave))
    await turns()
    others = [asyncio.create_task(hold(admission, tenant, entered, leave)) for tenant in ("a", "a", "b")]
    await turns()
    assert (admission.busy, admission.queued, entered) == (1, 3, ["first"])
    leave.set()
    await asyncio.gather(first, *others)
    assert entered == ["first", "a", "b", "a"]
    assert (admission.busy, admission.queued) == (0, 0)


async def test_who_comes_in_is_told_how_long_it_waited() -> None:
    admission = Admission(1)

    async def second() -> float:
        async with admission.slot("b") as waited:
            return waited

    async with admission.slot("a") as first:
        waiting = asyncio.create_task(second())
        await turns()
        assert not waiting.done()
    assert 0 <= first < await waiting


async def test_who_leaves_while_waiting_is_not_let_in() -> None:
    admission, entered, leave = Admission(1), list[str](), asyncio.Event()
    inside = asyncio.create_task(hold(admission, "inside", entered, leave))
    await turns()
    gone = asyncio.create_task(hold(admission, "gone", entered, leave))
    await turns()
    gone.cancel()
    await turns()
    assert admission.queued == 0
    leave.set()
    await inside
    assert (admission.busy, entered) == (0, ["inside"])


async def test_who_leaves_in_the_moment_of_admission_hands_the_slot_on() -> None:
    admission, entered, leave = Admission(1), list[str](), asyncio.Event()
    inside = asyncio.create_task(hold(admission, "inside", entered, leave))
    await turns()
    gone = asyncio.create_task(hold(admission, "gone", entered, leave))
    last = asyncio.create_task(hold(admission, "last", entered, leave))
    await turns()
    inside.cancel()
    while admission.queued != 1:
        await asyncio.sleep(0)
    gone.cancel()  # admitted, but it has not run yet
    leave.set()
    await asyncio.gather(inside, gone, last, return_exceptions=True)
    assert entered == ["inside", "last"]
    assert (admission.busy, admission.queued) == (0, 0)
