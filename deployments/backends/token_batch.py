"""The tokens of one decode step, as the arrays that llama.cpp reads."""

from collections.abc import Sequence

import numpy as np


class TokenBatch:
    """Parallel arrays of one element per token; only the first `size` count. Allocated once, filled every step."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.sequences = np.zeros(capacity, np.int32)
        self.outputs = np.zeros(capacity, np.int8)
        """1: logits are wanted at this token."""
        self._counter = np.arange(capacity, dtype=np.int32)

    def clear(self) -> None:
        self.size = 0

    def add(self, sequence: int, tokens: Sequence[int], position: int, *, output: bool) -> int:
        """Append `tokens` of a sequence, the first at `position`. `output`: logits at the last one.

        Returns the row of the last one.
        """
        start, end = self.size, self.size + len(tokens)
        self.tokens[start:end] = tokens
        np.add(self._counter[: len(tokens)], position, out=self.positions[start:end])
        self.sequences[start:end] = sequence
        self.outputs[start:end] = 0
        self.outputs[end - 1] = output
        self.size = end
        return end - 1
