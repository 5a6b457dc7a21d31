"""An encoder that a test holds still, looks into, and lets go on."""

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.backends.base import Tokens
from deployments.errors import EngineError


class FakeEncoder:
    """A row is [first id, number of ids]. Id 666 fails, and so does 777, with what no engine should raise."""

    max_length = 512
    width = 2

    def __init__(self, batch_tokens: int = 512, parallel_batches: int = 1) -> None:
        self.batch_tokens = batch_tokens
        self.parallel_batches = parallel_batches
        self.batches: list[list[int]] = []
        """First ids of each batch that has started."""
        self.running = 0
        self.most_running = 0
        self.closed = False
        self.may_run = threading.Event()
        self.may_run.set()
        self._lock = threading.Lock()

    def encode(self, batch: Sequence[Tokens]) -> Any:
        with self._lock:
            self.batches.append([tokens.ids[0] for tokens in batch])
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        assert self.may_run.wait(20)
        with self._lock:
            self.running -= 1
        if 666 in self.batches[-1]:
            raise EngineError("bad input")
        if any(tokens.ids[0] == 777 for tokens in batch):
            raise ZeroDivisionError("bug")
        return np.array([[tokens.ids[0], len(tokens.ids)] for tokens in batch], np.float32)

    def stats(self) -> dict[str, float]:
        return {"failed": 0}

    def close(self) -> None:
        self.closed = True
