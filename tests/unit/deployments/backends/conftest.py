"""What tests of schedulers share."""

import asyncio
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """For token streams that nobody reads."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()
