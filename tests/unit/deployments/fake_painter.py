"""A painter that a test holds still, looks into, and lets go on."""

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deployments.backends.base import Picture
from deployments.errors import EngineError


class FakePainter:
    """A picture is one grey, its seed.

    The prompt "endless" is painted until nobody wants it. "fail" fails, and so does "bug", with what no engine should
    raise.
    """

    default_width = 32
    default_height = 32
    default_steps = 4
    default_guidance = 7.5
    multiple = 8
    paints_over = True
    inpaints = True
    previews = True

    def __init__(self, batch: int = 4) -> None:
        self.batch = batch
        self.batches: list[list[Picture]] = []
        """Those that have started."""
        self.steps = 0
        self.closed = False
        self.may_run = threading.Event()
        self.may_run.set()

    def paint(self, batch: Sequence[Picture], *, step: Callable[..., Sequence[bool]]) -> list[Any]:
        self.batches.append(list(batch))
        for picture in batch:
            if picture.prompt == "fail":
                raise EngineError("bad prompt")
            if picture.prompt == "bug":
                raise ZeroDivisionError("bug")
        images = [np.full((p.height, p.width, 3), p.seed % 256, np.uint8) for p in batch]
        steps = batch[0].steps if batch[0].strength is None else int(batch[0].steps * batch[0].strength)
        if batch[0].prompt == "endless":
            steps = sys.maxsize
        for done in range(1, steps + 1):
            assert self.may_run.wait(20)
            self.steps += 1
            if not any(step(done, steps, lambda index: images[index] // 2)):
                return [None] * len(batch)
        return images

    def stats(self) -> dict[str, float]:
        return {"failed": 0}

    def close(self) -> None:
        self.closed = True
