"""Positions in sequences of an M-RoPE model, where a picture of n rows takes fewer than n of them."""

import numpy as np

Jumps = tuple[tuple[int, int], ...]
"""(number of items, position of the next one), behind each picture of a sequence."""


class SequencePositions:
    """Which position the n-th item of each sequence has. Without pictures it is n."""

    def __init__(self, sequences: int) -> None:
        self._jumps: list[Jumps] = [()] * sequences
        self.lags = np.zeros(sequences, np.int32)
        """Per sequence, how far the next position is behind the number of items."""

    def of(self, sequence: int, length: int) -> int:
        """The position that follows the first `length` items, which end within no picture."""
        jumps = _within(self._jumps[sequence], length)
        return length - _lag(jumps)

    def jump(self, sequence: int, length: int, position: int) -> None:
        """A picture made it `length` items, and `position` is the next one's."""
        self.put(sequence, (*self._jumps[sequence], (length, position)))

    def trim(self, sequence: int, length: int) -> None:
        self.put(sequence, _within(self._jumps[sequence], length))

    def copy(self, source: int, target: int, length: int) -> None:
        self.put(target, _within(self._jumps[source], length))

    def get(self, sequence: int) -> Jumps:
        return self._jumps[sequence]

    def put(self, sequence: int, jumps: Jumps) -> None:
        self._jumps[sequence] = jumps
        self.lags[sequence] = _lag(jumps)


def _within(jumps: Jumps, length: int) -> Jumps:
    return tuple(jump for jump in jumps if jump[0] <= length)


def _lag(jumps: Jumps) -> int:
    """What the last jump leaves: positions before it are counted in it."""
    return jumps[-1][0] - jumps[-1][1] if jumps else 0
