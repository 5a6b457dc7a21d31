"""Slots: the sequences of one KV cache, who runs in them, and the prefixes that past requests left behind."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from deployments.backends.jobs import Job
from deployments.backends.kv_cells import KVCells
from deployments.backends.prefix_archive import PrefixArchive, State, common_prefix

SHORT_TAIL = 32
"""Cached tokens that are not worth a slot or a copy of their own: they are dropped where they are in the way."""
IDLE_CELLS = 4096
"""Cells that prefixes of past requests may hold, all together, but for the most recent one."""
SPREAD_CELLS = 1024
"""Once so many cells were used at a time, the cache is emptied when nobody runs.

On a CPU every cell up to the highest used one costs each generated token a look at the attention mask per layer and
head: with SmolLM2-135M 0.8 µs of 17 ms. What is archived comes back to the lowest cells.
"""
ARCHIVE_BYTES = 2**30


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

    def save(self, sequence: int) -> State:
        """A copy of the sequence's tokens, to `load` later."""
        ...

    def load(self, sequence: int, state: State) -> bool:
        """Put saved tokens into the empty `sequence`. False: not possible, nothing was changed."""
        ...


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence. Without a job its tokens wait for a prompt that begins with them."""

    index: int
    ids: list[int] = field(default_factory=list)
    """The running job's ids, or what the last one left in the cache. Media have ids, too: `media_span.row_ids`."""
    filled: int = 0
    """How many of `ids` are in the cache."""
    job: Job | None = None
    used_at: int = 0
    """Larger: more recently."""

    @property
    def pending(self) -> int:
        """Tokens to decode until the next one can be sampled."""
        return len(self.ids) - self.filled

    @property
    def generating(self) -> bool:
        """One token is to be decoded, and then the next one can be sampled. Otherwise a job is prefilling."""
        return self.pending == 1 and self.job is not None and self.job.span_at(self.filled) is None


class Slots:
    """All slots of a cache. Keeps the count of cells in step with the cache itself.

    No prefix is forgotten while there is room: what must leave the cache goes to the archive.
    """

    def __init__(
        self,
        memory: SequenceMemory,
        count: int,
        *,
        idle_cells: int = IDLE_CELLS,
        spread_cells: int = SPREAD_CELLS,
        archive_bytes: int = ARCHIVE_BYTES,
    ) -> None:
        self.cells = KVCells(memory.cells, count)
        self._memory = memory
        self._slots = [Slot(index) for index in range(count)]
        self.archive = PrefixArchive(archive_bytes)
        self._idle_cells = idle_cells
        self._spread_cells = spread_cells
        self._most_used = 0
        """Largest number of cells in use since there were none."""
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
        prefilling = (slot for slot in self.running() if not slot.generating)
        return max((common_prefix(ids, slot.ids, len(ids) - 1) for slot in prefilling), default=0)

    def recall(self, ids: Sequence[int]) -> None:
        """Bring the archived prefix that suits `ids` best back into an idle slot, if that is worth it and fits."""
        entry, length = self.archive.longest_prefix(ids)
        if entry is None or length < self.longest_prefix(ids)[1] + SHORT_TAIL or self.all_running():
            return
        self.archive.remove(entry)
        slot = self._least_used()
        self._put_away(slot)
        if not self.evict_idle(len(entry.ids)) or not self._memory.load(slot.index, entry.state):
            self.archive.put(entry.ids, entry.state)
            return
        self.cells.extend(slot.index, len(entry.ids))
        slot.ids, slot.filled, slot.used_at = list(entry.ids), len(entry.ids), next(self._uses)

    def held_beside(self, source: Slot, reusable: int) -> int:
        """Cells taken by running jobs and by the first `reusable` tokens of `source`: all others can be evicted."""
        return self.cells.held((slot.index for slot in self.running()), prefix=(source.index, reusable))

    # ---- joining and leaving ----

    def place(self, job: Job, source: Slot, reusable: int) -> int:
        """Give `job` a slot, with the first `reusable` tokens of `source`. Returns how many could be reused."""
        slot = self._least_used()
        if source.job is None and source.filled - reusable < SHORT_TAIL:
            slot = source
        if slot is source:
            self._trim(slot, reusable)
        else:
            self._put_away(slot)
            self._memory.copy(source.index, slot.index, reusable)
            self.cells.copy(source.index, slot.index, reusable)
            slot.filled = reusable
        slot.job, slot.ids = job, job.ids
        return slot.filled

    def release(self, slot: Slot) -> None:
        """The job is gone; what it leaves in the cache may serve another one. No half of a picture does."""
        if slot.job is not None:
            self._trim(slot, slot.job.whole(slot.filled))
        slot.job, slot.ids = None, slot.ids[: slot.filled]
        slot.used_at = next(self._uses)
        self._most_used = max(self._most_used, self.cells.used)
        if not self._memory.reuses_prefixes:
            self.clear(slot)
        while self._idle_cells_used() > self._idle_cells and self._evict_one(keep=slot):
            pass
        if self._most_used > self._spread_cells and not self.running():
            self.put_away_idle()
            self._most_used = 0

    def clear(self, slot: Slot) -> None:
        """Forget the slot's tokens; a job in it starts anew."""
        self._memory.trim(slot.index, 0)
        self.cells.trim(slot.index, 0)
        slot.filled = 0

    def evict_idle(self, free: int) -> bool:
        """Put idle prefixes away, least recently used first, until `free` cells are free. False: there aren't."""
        while self.cells.free < free:
            if not self._evict_one():
                return False
        return True

    def put_away_idle(self) -> bool:
        """Put all idle prefixes away. False: there were none."""
        any_put = False
        while self._evict_one():
            any_put = True
        return any_put

    def _evict_one(self, keep: Slot | None = None) -> bool:
        idle = [slot for slot in self._slots if slot.job is None and slot.filled and slot is not keep]
        if not idle:
            return False
        self._put_away(min(idle, key=lambda slot: slot.used_at))
        return True

    def _least_used(self) -> Slot:
        """The idle slot to take: an empty one, else the one that was used longest ago."""
        return min((s for s in self._slots if s.job is None), key=lambda slot: slot.used_at if slot.filled else 0)

    def _put_away(self, slot: Slot) -> None:
        """Empty an idle slot. What it holds goes to the archive if it is worth a copy."""
        if slot.filled >= SHORT_TAIL and self._memory.reuses_prefixes:
            self.archive.put(slot.ids[: slot.filled], self._memory.save(slot.index))
        self.clear(slot)

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
