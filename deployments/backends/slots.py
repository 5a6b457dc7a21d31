"""Slots: the sequences of one KV cache, who runs in them, and the prefixes that past requests left behind."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deployments.backends.jobs import Job
from deployments.backends.kv_cells import KVCells

SHORT_TAIL = 32
"""Cached tokens that are not worth a slot of their own: the new prompt takes the old one's slot and drops them."""


class SequenceMemory(Protocol):
    """A cache of sequences."""

    cells: int
    """Capacity in tokens."""
    reuses_prefixes: bool
    """Whether sequences can be cut and copied at any position (not with recurrent models)."""

    def trim(self, sequence: int, length: int) -> bool:
        """Keep the first `length` tokens. False: not possible, nothing was changed. To 0 it always is."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Share the first `length` tokens of `source` with the empty `target`."""
        ...


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence. Without a job its tokens wait for a prompt that begins with them."""

    index: int
    ids: list[int] = field(default_factory=list)
    """The running job's ids, or what the last one left in the cache."""
    filled: int = 0
    """How many of `ids` are in the cache."""
    job: Job | None = None
    used_at: int = 0
    """Larger: more recently."""

    @property
    def pending(self) -> int:
        """Tokens to decode until the next one can be sampled: 1 while generating, more while prefilling."""
        return len(self.ids) - self.filled


class Slots:
    """All slots of a cache. Keeps the count of cells in step with the cache itself."""

    def __init__(self, memory: SequenceMemory, count: int, idle_cells: int) -> None:
        self.cells = KVCells(memory.cells, count)
        self._memory = memory
        self._slots = [Slot(index) for index in range(count)]
        self._idle_cells = idle_cells
        """Cells that may hold nothing but prefixes of past requests."""
        self._uses = itertools.count(1)

    def __len__(self) -> int:
        return len(self._slots)

    def running(self) -> list[Slot]:
        return [slot for slot in self._slots if slot.job is not None]

    def all_running(self) -> bool:
        return all(slot.job is not None for slot in self._slots)

    # ---- prefixes ----

    def longest_prefix(self, ids: Sequence[int]) -> tuple[Slot, int]:
        """The slot whose cache begins most like `ids`, and how far. The last token doesn't count: it gives logits."""
        best, longest = self._slots[0], 0
        for slot in self._slots if self._memory.reuses_prefixes else ():
            length = common_prefix(ids, slot.ids, min(slot.filled, len(ids) - 1))
            if length > longest:
                best, longest = slot, length
        return best, longest

    def coming_prefix(self, ids: Sequence[int]) -> int:
        """Like `longest_prefix`, of the prompts that are being prefilled now, as if they were done."""
        if not self._memory.reuses_prefixes:
            return 0
        prefilling = (slot for slot in self.running() if slot.pending > 1)
        return max((common_prefix(ids, slot.ids, len(ids) - 1) for slot in prefilling), default=0)

    def held_beside(self, source: Slot, reusable: int) -> int:
        """Cells taken by running jobs and by the first `reusable` tokens of `source`: all others can be evicted."""
        return self.cells.held((slot.index for slot in self.running()), prefix=(source.index, reusable))

    # ---- joining and leaving ----

    def place(self, job: Job, source: Slot, reusable: int) -> int:
        """Give `job` a slot, with the first `reusable` tokens of `source`. Returns how many could be reused."""
        idle = [slot for slot in self._slots if slot.job is None]
        slot = min(idle, key=lambda slot: slot.used_at if slot.filled else 0)
        if source.job is None and source.filled - reusable < SHORT_TAIL:
            slot = source
        if slot is source:
            self._trim(slot, reusable)
        else:
            self.clear(slot)
            self._memory.copy(source.index, slot.index, reusable)
            self.cells.copy(source.index, slot.index, reusable)
            slot.filled = reusable
        slot.job, slot.ids = job, job.ids
        return slot.filled

    def release(self, slot: Slot) -> None:
        """The job is gone; what it leaves in the cache may serve another one."""
        slot.job, slot.ids = None, slot.ids[: slot.filled]
        slot.used_at = next(self._uses)
        if not self._memory.reuses_prefixes:
            self.clear(slot)
        while self._idle_cells_used() > self._idle_cells and self._evict_one(keep=slot):
            pass

    def clear(self, slot: Slot) -> None:
        """Forget the slot's tokens; a job in it starts anew."""
        self._memory.trim(slot.index, 0)
        self.cells.trim(slot.index, 0)
        slot.filled = 0

    def evict_idle(self, free: int) -> bool:
        """Forget idle prefixes, least recently used first, until `free` cells are free. False: there aren't as many."""
        while self.cells.free < free:
            if not self._evict_one():
                return False
        return True

    def forget_idle(self) -> bool:
        """Forget all idle prefixes. False: there were none."""
        forgot = False
        while self._evict_one():
            forgot = True
        return forgot

    def _evict_one(self, keep: Slot | None = None) -> bool:
        idle = [slot for slot in self._slots if slot.job is None and slot.filled and slot is not keep]
        if not idle:
            return False
        self.clear(min(idle, key=lambda slot: slot.used_at))
        return True

    def _idle_cells_used(self) -> int:
        return self.cells.used - self.cells.held(slot.index for slot in self.running())

    def _trim(self, slot: Slot, length: int) -> None:
        if slot.filled <= length:
            return
        if self._memory.trim(slot.index, length):
            self.cells.trim(slot.index, length)
            slot.filled = length
        else:
            self.clear(slot)


def common_prefix(a: Sequence[int], b: Sequence[int], most: int) -> int:
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
