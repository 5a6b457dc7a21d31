"""The tokens of one decode step, as the arrays that llama.cpp reads."""

from collections.abc import Sequence

import numpy as np

from deployments.backends.media_span import MediaSpan


class TokenBatch:
    """Parallel arrays of one element per token; only the first `size` count. Allocated once, filled every step.

    Or rows of one media span, in the place of tokens.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.size = 0
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        """Places in the sequence, from 0."""
        self.sequences = np.zeros(capacity, np.int32)
        self.outputs = np.zeros(capacity, np.int8)
        """1: logits are wanted at this token."""
        self.span: MediaSpan | None = None
        """What the batch is a part of, if it is of embeddings: its rows from place `positions[0]` on."""
        self._counter = np.arange(capacity, dtype=np.int32)

    def clear(self) -> None:
        self.size = 0
        self.span = None

    def add(self, sequence: int, tokens: Sequence[int], position: int, *, output: bool) -> int:
        """Append `tokens` of a sequence, the first at `position`. `output`: logits at the last one.

        Returns the row of the last one.
        """
        self.tokens[self.size : self.size + len(tokens)] = tokens
        return self._extend(sequence, len(tokens), position, output)

    def add_rows(self, sequence: int, span: MediaSpan, count: int, position: int, *, output: bool) -> int:
        """Make the empty batch one of `count` rows of `span`, the first at `position`. Otherwise like `add`."""
        self.span = span
        return self._extend(sequence, count, position, output)

    def _extend(self, sequence: int, count: int, position: int, output: bool) -> int:
        start, end = self.size, self.size + count
        np.add(self._counter[:count], position, out=self.positions[start:end])
        self.sequences[start:end] = sequence
        self.outputs[start:end] = 0
        self.outputs[end - 1] = output
        self.size = end
        return end - 1
