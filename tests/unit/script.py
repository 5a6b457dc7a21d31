"""A stream that a test writes beforehand."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any


async def played(script: Sequence[Any]) -> AsyncGenerator[Any, None]:
    """Its items one after another. An error is raised, and an event is waited for, instead."""
    for step in script:
        if isinstance(step, Exception):
            raise step
        if isinstance(step, asyncio.Event):
            await step.wait()
        else:
            yield step
