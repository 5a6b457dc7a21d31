"""Prefixes of past requests in main memory, outside the KV cache: to come back costs a copy, not a prefill."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deployments.backends.mrope import Jumps


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """A sequence's part of the cache."""

    data: NDArray[np.uint8]
    """As the engine writes it."""
    jumps: Jumps = ()

    @property
    def nbytes(self) -> int:
        return self.data.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Archived:
    """A prefix and its state."""

    ids: Sequence[int]
    state: State


class PrefixArchive:
    """Keeps the most recently used prefixes within a budget of bytes."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._entries: list[Archived] = []  # least recently used first
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, ids: Sequence[int], state: State) -> None:
        """Add a prefix; those that it begins with are in it, and go."""
        for entry in [e for e in self._entries if common_prefix(e.ids, ids, len(e.ids)) == len(e.ids)]:
            self.remove(entry)
        if state.nbytes > self._budget:
            return
        self._entries.append(Archived(list(ids), state))
        self.bytes += state.nbytes
        while self.bytes > self._budget:
            self.remove(self._entries[0])

    def longest_prefix(self, ids: Sequence[int]) -> tuple[Archived | None, int]:
        """The entry that begins most like `ids`, and how far. The last token doesn't count: it gives logits."""
        best, longest = None, 0
        for entry in self._entries:
            if (length := common_prefix(ids, entry.ids, len(ids) - 1)) > longest:
                best, longest = entry, length
        return best, longest

    def remove(self, entry: Archived) -> None:
        self._entries.remove(entry)
        self.bytes -= entry.state.nbytes


def common_prefix(a: Sequence[Any], b: Sequence[Any], most: int) -> int:
    """Length of the common prefix of `a` and `b`, at most `most`. By halving: slices compare at C speed."""
    most = min(most, len(a), len(b))
    if most <= 0 or a[0] != b[0]:
        return 0
    low, high = 1, most
    if a[:most] == b[:most]:
        return most
    while high - low > 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
