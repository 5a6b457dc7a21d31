"""Pictures that wait for a painter: denoised in batches across requests, fair between tenants, in one thread."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from deployments.arrival import Arrival
from deployments.backends.base import Painter, Picture
from deployments.backends.fair_queue import FairQueue
from deployments.errors import EngineError, MantaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Update:
    """How a picture of an order is coming along."""

    index: int
    """Of the picture in its order."""
    step: int
    steps: int
    preview: "NDArray[np.uint8] | None" = None
    painted: "NDArray[np.uint8] | None" = None
    """RGB [height, width, 3]; with it the update is the picture's last."""


@dataclass(slots=True, eq=False)
class Order(Arrival):
    """A request's pictures. It has started when one of them has been taken."""

    pictures: Sequence[Picture]
    tenant: str = ""
    previews: int = 0
    """Of each picture, spread over its steps."""
    progress: bool = True
    """It is told after each step. Waking the event loop so often takes the interpreter from the painter."""
    updates: "asyncio.Queue[Update | Exception]" = field(default_factory=asyncio.Queue)
    wanted: bool = True
    """Read by the painter's thread; False: who ordered has left."""


@dataclass(slots=True, eq=False)
class _Commission:
    """One picture of an order."""

    order: Order
    index: int
    tenant: str

    @property
    def picture(self) -> Picture:
        return self.order.pictures[self.index]


Batch = Sequence[_Commission]
Painted: TypeAlias = "NDArray[np.uint8] | Exception | None"


class Studio:
    """Runs a painter in a thread of its own; all methods belong to the replica's event loop.

    As with encoders (`batching.Batcher`), what waits starts the moment the painter is free, and what comes in while a
    batch is painted makes up the next one.
    """

    def __init__(self, painter: Painter) -> None:
        self._painter = painter
        self._queue: FairQueue[_Commission] = FairQueue()
        self._thread = ThreadPoolExecutor(1, "painter")
        self._orders: set[Order] = set()
        self._painting = 0
        self._starting = False
        self._closed = False
        self._done = dict.fromkeys(("batches", "images", "steps", "busy_s"), 0.0)

    @property
    def waiting_orders(self) -> int:
        """Those of which no picture has been begun."""
        return sum(not order.started for order in self._orders)

    async def paint(self, order: Order) -> AsyncGenerator[Update, None]:
        """Updates of all pictures until each is painted. Closing it ends their painting at the next step.

        Raises what the painter raises, and EngineError when the model is unloaded.
        """
        if self._closed:
            raise EngineError("the model was unloaded")
        self._orders.add(order)
        for index in range(len(order.pictures)):
            self._queue.push(_Commission(order, index, order.tenant))
        self._start_soon()
        try:
            left = len(order.pictures)
            while left:
                update = await order.updates.get()
                if isinstance(update, Exception):
                    raise update
                left -= update.painted is not None
                yield update
        finally:
            order.wanted = False
            self._orders.discard(order)
            self._queue.discard(lambda commission: commission.order is order)

    def stats(self) -> dict[str, float]:
        """Gauges: requests, pictures that are painted and that wait. Counters: what was done, and the seconds of it."""
        return {
            "slots_busy": len(self._orders),
            "painting": self._painting,
            "queued": len(self._queue),
            **self._done,
        }

    def close(self) -> None:
        """Who waits gets EngineError; returns when the painter has stopped. Idempotent."""
        self._closed = True
        for order in self._orders:
            order.wanted = False
            order.updates.put_nowait(EngineError("the model was unloaded"))
        self._thread.shutdown(cancel_futures=True)

    def _start_soon(self) -> None:
        if not self._starting:
            self._starting = True
            asyncio.get_running_loop().call_soon(self._start)  # what else comes in this turn of the loop starts with it

    def _start(self) -> None:
        self._starting = False
        if self._painting or self._closed or not (batch := self._take_batch()):
            return
        self._painting = len(batch)
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(self._thread, self._paint_timed, batch, loop)
        running.add_done_callback(partial(self._ended, batch))

    def _take_batch(self) -> Batch:
        """Whose turn it is, and those of its group that wait, in the order of their turns."""
        batch: list[_Commission] = []
        for commission in self._queue:
            if not batch:
                group = commission.picture.group
                capacity = self._capacity(commission.picture)
            if commission.picture.group == group:
                batch.append(commission)
                if len(batch) == capacity:
                    break
        for commission in batch:
            self._queue.take(commission)
            commission.order.start()
        return batch

    def _capacity(self, picture: Picture) -> int:
        """Larger pictures than the model's own go in smaller batches: what counts is memory."""
        own = self._painter.default_width * self._painter.default_height
        return max(1, min(self._painter.batch, self._painter.batch * own // (picture.width * picture.height)))

    def _ended(self, batch: Batch, running: "asyncio.Future[tuple[list[Painted], float]]") -> None:
        """First the next batch, then the answers to this one."""
        self._painting = 0
        if running.cancelled():
            return
        self._start()
        painted, seconds = running.result()
        for commission, result in zip(batch, painted, strict=True):
            if isinstance(result, Exception):
                commission.order.updates.put_nowait(result)
            elif result is not None:
                steps = commission.picture.steps
                commission.order.updates.put_nowait(Update(commission.index, steps, steps, painted=result))
        images = sum(not isinstance(result, Exception) and result is not None for result in painted)
        for name, more in (("batches", 1), ("images", images), ("busy_s", seconds)):
            self._done[name] += more

    # ---- in the painter's thread ----

    def _paint_timed(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> "tuple[list[Painted], float]":
        started = time.perf_counter()
        return self._paint(batch, loop), time.perf_counter() - started

    def _paint(self, batch: Batch, loop: asyncio.AbstractEventLoop) -> "list[Painted]":
        """Pictures in the order of the batch. When it fails, each by itself: only what is bad fails."""

        def step(done: int, steps: int, preview: "Callable[[int], NDArray[np.uint8]]") -> list[bool]:
            for place, commission in enumerate(batch):
                if commission.order.wanted and commission.order.progress:
                    shown = preview(place) if done in preview_steps(steps, commission.order.previews) else None
                    update = Update(commission.index, done, steps, shown)
                    loop.call_soon_threadsafe(commission.order.updates.put_nowait, update)
            self._done["steps"] += 1
            return [commission.order.wanted for commission in batch]

        if not any(commission.order.wanted for commission in batch):
            return [None] * len(batch)
        try:
            return list(self._painter.paint([commission.picture for commission in batch], step=step))
        except Exception as error:  # noqa: BLE001 – it is what the orders are answered with
            if len(batch) > 1:
                return [painted for commission in batch for painted in self._paint([commission], loop)]
            return [error if isinstance(error, MantaError) else EngineError(f"{type(error).__name__}: {error}")]


def preview_steps(steps: int, previews: int) -> set[int]:
    """The steps after which a picture is shown: evenly between the first and the last."""
    return {round(steps * number / (previews + 1)) for number in range(1, previews + 1)} - {0, steps}
