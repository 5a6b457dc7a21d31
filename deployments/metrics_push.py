"""How a process that answers no HTTP tells the controller what it has counted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from deployments.process_metrics import observe_for_ever
from deployments.samples import Recorder, Snapshot

logger = logging.getLogger("manta.metrics")

PUSH_S = 1.0
"""How often it is looked whether there is anything new: what a killed process takes along."""
SEND_S = 5.0
"""A controller that is away is not waited for any longer; it is told again after so long."""
FAREWELL_S = 1.0
"""For the last snapshot of a process that ends."""


class MetricsPush:
    """Sends snapshots while something changes, a few a minute while nothing does, and a last one at the end."""

    def __init__(
        self, send: Callable[[Snapshot], Awaitable[None]], observe: Callable[[], None], *, process: str, node: str = ""
    ) -> None:
        """`observe`: sets the gauges; called once a second. `process`, `node`: as of `process_metrics`."""
        self._send = send
        self._observe = observe
        self._recorder = Recorder()
        self._tasks = (
            asyncio.create_task(observe_for_ever(process, node), name="observe process"),
            asyncio.create_task(self._push_for_ever(), name="push metrics"),
        )

    async def stop(self) -> None:
        """Take leave: the counts stay, the gauges go."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(FAREWELL_S):
                await self._send(self._recorder.snapshot().counts())
        except Exception as error:  # noqa: BLE001 – it may end with the whole server
            logger.info("the last second's metrics are lost: %s: %s", type(error).__name__, error)

    async def _push_for_ever(self) -> None:
        while True:
            try:
                self._observe()
                if snapshot := self._recorder.news():
                    async with asyncio.timeout(SEND_S):
                        await self._send(snapshot)
            except Exception as error:  # noqa: BLE001 – whatever it is, the next try may go well
                logger.warning("the controller was not told of the metrics: %s: %s", type(error).__name__, error)
                await asyncio.sleep(SEND_S)
            await asyncio.sleep(PUSH_S)
