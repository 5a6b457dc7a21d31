"""The studio: what is painted together, whose turn it is, and what a failure takes with it."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from deployments.backends.base import Picture
from deployments.errors import EngineError
from deployments.painting import Order, Studio, preview_steps
from tests.unit.deployments.fake_painter import FakePainter
from tests.unit.waiting import until


def picture(seed: int = 0, **fields: Any) -> Picture:
    values = {"prompt": "x", "negative_prompt": "", "width": 32, "height": 32, "steps": 2, "guidance": 7.5, **fields}
    return Picture(seed=seed, **values)


async def paint(studio: Studio, *pictures: Picture, tenant: str = "") -> list[int]:
    """The greys of a request's pictures."""
    greys: dict[int, int] = {}
    async with aclosing(studio.paint(Order(pictures, tenant))) as updates:
        async for update in updates:
            if update.painted is not None:
                greys[update.index] = int(update.painted[0, 0, 0])
    return [greys[index] for index in range(len(pictures))]


def seeds(batches: Sequence[Sequence[Picture]]) -> list[list[int]]:
    return [[each.seed for each in batch] for batch in batches]


async def held(painter: FakePainter, studio: Studio) -> asyncio.Task[list[int]]:
    """A request that is painted until the test lets it go on."""
    painter.may_run.clear()
    first = asyncio.create_task(paint(studio, picture(200), tenant="first"))
    await until(lambda: painter.batches)
    return first


async def test_requests_that_come_together_are_painted_together() -> None:
    painter = FakePainter()
    studio = Studio(painter)
    results = await asyncio.gather(*(paint(studio, picture(seed)) for seed in range(4)))
    assert results == [[0], [1], [2], [3]]
    assert seeds(painter.batches) == [[0, 1, 2, 3]]


async def test_only_pictures_of_a_group_are_painted_together() -> None:
    painter = FakePainter(batch=8)
    studio = Studio(painter)
    first = await held(painter, studio)
    pictures = [
        picture(0), picture(1, steps=3), picture(2), picture(3, width=40), picture(4, guidance=1.0),
        picture(5, negative_prompt="y"), picture(6, image=np.zeros((32, 32, 3), np.uint8)), picture(7),
    ]  # fmt: skip
    work = asyncio.create_task(paint(studio, *pictures))
    await until(lambda: studio.stats()["queued"] == 8)
    painter.may_run.set()
    assert await work == list(range(8))
    assert await first == [200]
    assert seeds(painter.batches) == [[200], [0, 2, 7], [1], [3], [4], [5], [6]]


async def test_batches_are_bounded_and_larger_pictures_go_in_smaller_ones() -> None:
    painter = FakePainter(batch=4)
    studio = Studio(painter)
    await paint(studio, *(picture(seed) for seed in range(10)))
    assert [len(batch) for batch in painter.batches] == [4, 4, 2]
    painter.batches.clear()
    await paint(studio, *(picture(seed, width=64) for seed in range(4)))
    await paint(studio, *(picture(seed, width=640) for seed in range(2)))
    await paint(studio, *(picture(seed, width=8) for seed in range(5)))
    assert [len(batch) for batch in painter.batches] == [2, 2, 1, 1, 4, 1]


async def test_tenants_take_turns() -> None:
    painter = FakePainter(batch=2)
    studio = Studio(painter)
    first = await held(painter, studio)
    greedy = asyncio.create_task(paint(studio, *(picture(seed) for seed in range(6)), tenant="greedy"))
    await until(lambda: studio.stats()["queued"] == 6)
    modest = asyncio.create_task(paint(studio, picture(100), tenant="modest"))
    other = asyncio.create_task(paint(studio, picture(101, steps=9), tenant="other"))
    await until(lambda: studio.stats()["queued"] == 8)
    painter.may_run.set()
    await asyncio.gather(first, greedy, modest, other)
    assert seeds(painter.batches) == [[200], [0, 100], [101], [1, 2], [3, 4], [5]]


async def test_a_batch_goes_on_while_one_of_its_requests_is_wanted() -> None:
    painter = FakePainter()
    studio = Studio(painter)
    painter.may_run.clear()
    leaves = asyncio.create_task(paint(studio, picture(1)))
    stays = asyncio.create_task(paint(studio, picture(2)))
    await until(lambda: painter.batches)
    leaves.cancel()
    await until(leaves.done)
    painter.may_run.set()
    assert await stays == [2]
    assert seeds(painter.batches) == [[1, 2]]
    assert painter.steps == 2


@pytest.mark.parametrize("bad", ["fail", "bug"])
async def test_one_bad_picture_among_many_fails_alone(bad: str) -> None:
    studio = Studio(FakePainter())
    requests = [picture(seed, prompt=bad if seed == 2 else "x") for seed in range(4)]
    results = await asyncio.gather(*(paint(studio, each) for each in requests), return_exceptions=True)
    assert [results[0], results[1], results[3]] == [[0], [1], [3]]
    assert isinstance(results[2], EngineError)
    assert studio.stats()["images"] == 3


async def test_a_request_that_waits_can_leave() -> None:
    painter = FakePainter()
    studio = Studio(painter)
    first = await held(painter, studio)
    waits = asyncio.create_task(paint(studio, *(picture(seed) for seed in range(5))))
    await until(lambda: studio.waiting_orders == 1)
    waits.cancel()
    await until(waits.done)
    assert studio.stats()["queued"] == studio.waiting_orders == 0
    painter.may_run.set()
    assert await first == [200]
    assert seeds(painter.batches) == [[200]]


@pytest.mark.parametrize(
    ("steps", "previews", "expected"),
    [(10, 0, set()), (10, 1, {5}), (10, 3, {2, 5, 8}), (15, 2, {5, 10}), (1, 3, set()), (2, 3, {1})],
)
def test_previews_are_spread_over_the_steps(steps: int, previews: int, expected: set[int]) -> None:
    assert preview_steps(steps, previews) == expected
