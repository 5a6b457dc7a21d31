"""Work on files, off the event loop."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


async def in_thread(
    function: Callable[Parameters, Result], *arguments: Parameters.args, **keywords: Parameters.kwargs
) -> Result:
    """As asyncio.to_thread, but a cancellation waits for the thread.

    What it does to files can't be called back, and who cancelled it cleans up after it.
    """
    return await to_the_end(asyncio.to_thread(function, *arguments, **keywords))


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """The result of `work`, for whose end a cancellation waits."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.gather(task, return_exceptions=True)
        raise
