"""The same work on several items at once: all results, or the first error."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 8


async def side_by_side(
    work: Callable[[Item], Awaitable[Result]], items: Iterable[Item], at_once: int = AT_ONCE
) -> list[Result]:
    """`work` on each item; the results in order. The first error ends the others, and is raised as it is."""
    places = asyncio.Semaphore(at_once)

    async def placed(item: Item) -> Result:
        async with places:
            return await work(item)

    tasks = [asyncio.create_task(placed(item)) for item in items]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
