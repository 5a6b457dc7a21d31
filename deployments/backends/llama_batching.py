"""Continuous batching: which tokens of which requests go into the next decode step. Knows no llama.cpp.

One step is a batch with a token of every request that is generating, then batches of the prompts that are being
prefilled. A batch holds tokens, or rows of one picture or sound. Requests join and leave between steps. Everything here
runs on the engine's thread.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from deployments.backends.fair_queue import FairQueue
from deployments.backends.jobs import Job, Output
from deployments.backends.media_span import MediaSpan
from deployments.backends.slots import SequenceMemory, Slot, Slots
from deployments.backends.token_batch import TokenBatch
from deployments.errors import EngineError, MantaError

log = logging.getLogger("manta.llama_cpp")

STEP_SECONDS = 0.2
"""Time that the prompts of a step may take while somebody is generating: the gap they cause in a stream."""
TILE = 64
"""Tokens from which on llama.cpp's CPU attention computes a batch in tiles: 2 to 4 times as fast for long prompts, and
with other rounding. So long prompts go in chunks of as many, and neither short prompts nor generated tokens share a
batch with them: a request's numbers don't depend on who else is there."""
WORTH_WAITING = 32
"""Prompt tokens that a request must save by waiting until another one has prefilled them."""
HEADROOM = 16
"""Free cells per running request that a new one must leave: without them it is soon thrown out again."""


class CellsExhausted(Exception):
    """The decoder found no cells for this batch; nothing was changed."""


class DecodeFailed(Exception):
    """The decoder failed, in its own words; the sequences of this batch are in an unknown state."""


class Decoder(SequenceMemory, Protocol):
    """A model with a cache of sequences."""

    batch: TokenBatch

    def decode(self) -> None:
        """Run `batch`. Raises CellsExhausted or DecodeFailed."""
        ...


class Row(NamedTuple):
    """A slot's share of a batch."""

    slot: Slot
    job: Job
    tokens: int
    logits: int | None
    """Batch row of the logits to sample from. None: the prompt goes on in the next step."""


class Scheduler:
    """The queue and the steps."""

    def __init__(self, decoder: Decoder, slots: Slots, clock: Callable[[], float] = time.perf_counter) -> None:
        self._decoder = decoder
        self._batch = decoder.batch
        self._slots = slots
        self._queue: FairQueue[Job] = FairQueue()
        self._orders = itertools.count()
        self._clock = clock
        self._seconds_per_token = STEP_SECONDS / TILE
        self.failures = 0
        """Steps in a row in which the decoder failed."""
        self._crowded = False
        """Somebody was preempted, and nobody has left since: admitting more would only preempt again."""

    def submit(self, job: Job) -> None:
        self._queue.push(job)

    @property
    def idle(self) -> bool:
        return not self._queue and not self._slots.running()

    def stats(self) -> dict[str, float]:
        """May be called from another thread."""
        return {
            "slots": len(self._slots),
            "slots_busy": len(self._slots.running()),
            "queued": len(self._queue),
            "kv_cells": self._slots.cells.capacity,
            "kv_cells_used": self._slots.cells.used,
            "archived_bytes": self._slots.archive.bytes,
        }

    def step(self) -> Iterator[Output]:
        """Decode a token of everybody who is generating, then prompts: as many as STEP_SECONDS allow, or one batch.

        No request is lost: what can't run now runs later, what fails gets its error.
        """
        self._drop_cancelled()
        self._admit()
        self._make_room_for_generating()
        rows = self._generating_rows()
        progress = bool(rows)
        budget = int(STEP_SECONDS / self._seconds_per_token) if rows else self._batch.capacity
        try:
            if rows:
                yield from self._decode(rows)
            while budget > 0 and (rows := self._prompt_rows(budget)):
                progress = True
                started = self._clock()
                yield from self._decode(rows)
                self._measure(self._clock() - started)
                budget -= self._batch.size
        except CellsExhausted:
            progress = False
        if not progress:
            yield from self._make_room()

    def fail_all(self, error: MantaError) -> list[Output]:
        """End every request, running or waiting."""
        outputs = [self._fail(slot, slot.job, error) for slot in self._slots.running() if slot.job]
        for job in self._queue.discard(lambda _: True):
            job.sampler.close()
            outputs.append(Output(job, error=error))
        return outputs

    # ---- joining ----

    def _drop_cancelled(self) -> None:
        for slot in self._slots.running():
            if slot.job is not None and slot.job.cancelled:
                self._release(slot, slot.job)
        for job in self._queue.discard(lambda job: job.cancelled):
            job.sampler.close()

    def _admit(self) -> None:
        """Give free slots to those whose turn it is. Who doesn't fit yet keeps the turn: nobody overtakes."""
        if not self._queue or self._slots.all_running() or (self._crowded and self._slots.running()):
            return
        for job in list(self._queue):
            self._slots.recall(job.ids)
            source, reusable = self._slots.longest_prefix(job.ids)
            reusable = job.whole(reusable)
            if self._slots.coming_prefix(job.ids) >= reusable + WORTH_WAITING:
                continue
            if not self._fits(job, source, reusable):
                return
            self._queue.take(job)
            reused = self._slots.place(job, source, reusable)
            if job.order < 0:
                job.start()
                job.order, job.cached_tokens = next(self._orders), reused
            if self._slots.all_running():
                return

    def _fits(self, job: Job, source: Slot, reusable: int) -> bool:
        """Whether the prompt has room beside the running requests, were all other idle prefixes evicted."""
        running = self._slots.running()
        if not running:
            return True
        promised = sum(slot.pending for slot in running) + HEADROOM * len(running)
        held = self._slots.held_beside(source, reusable)
        return held + promised + len(job.ids) - reusable <= self._slots.cells.capacity

    # ---- leaving ----

    def _release(self, slot: Slot, job: Job) -> None:
        job.sampler.close()
        self._slots.release(slot)
        self._crowded = False

    def _fail(self, slot: Slot, job: Job, error: MantaError) -> Output:
        self._slots.clear(slot)
        self._release(slot, job)
        return Output(job, error=error)

    def _preempt_youngest(self) -> None:
        """Take its cells from who came last. It goes on later from its prompt and what it has generated."""
        slot, job = max(self._by_order(), key=lambda pair: pair[1].order)
        self._slots.clear(slot)
        self._slots.release(slot)
        self._queue.put_back(job)
        self._crowded = True

    def _by_order(self) -> list[tuple[Slot, Job]]:
        """Running jobs, who came first first."""
        pairs = [(slot, slot.job) for slot in self._slots.running() if slot.job is not None]
        return sorted(pairs, key=lambda pair: pair[1].order)

    # ---- one batch ----

    def _make_room_for_generating(self) -> None:
        """A cell for the next token of everybody who is generating."""
        while True:
            running = self._slots.running()
            needed = sum(slot.generating for slot in running)
            if self._slots.evict_idle(needed) or len(running) < 2:
                return
            self._preempt_youngest()

    def _make_room(self) -> list[Output]:
        """The batch found no cells: free some at any price. Only a request that is alone can fail by it."""
        running = self._by_order()
        if not running or self._slots.put_away_idle():
            return []
        if len(running) > 1:
            self._preempt_youngest()
            return []
        error = EngineError(f"the KV cache ({self._slots.cells.capacity} cells) has no room for this request")
        return [self._fail(*running[0], error)]

    def _generating_rows(self) -> list[Row]:
        """A token of everybody who is generating."""
        self._batch.clear()
        return [self._add(slot, job, 1) for slot, job in self._by_order() if slot.generating]

    def _prompt_rows(self, budget: int) -> list[Row]:
        """Short prompts, or chunks of long ones, in the order of arrival: as many as fit, at least one.

        What counts of a prompt with media is its text up to the next of them, or the rows of one, which go alone.
        """
        self._batch.clear()
        prefilling = [pair for pair in self._by_order() if not pair[0].generating]
        if prefilling and (span := prefilling[0][1].span_at(prefilling[0][0].filled)):
            return self._media_rows(*prefilling[0], span, budget)
        rows: list[Row] = []
        stretches = [
            (slot, job, job.stretch(slot.filled) - slot.filled)
            for slot, job in prefilling
            if job.span_at(slot.filled) is None
        ]
        long = bool(stretches) and stretches[0][2] >= TILE
        budget = min(max(budget, TILE), self._batch.capacity) if long else TILE - 1
        for slot, job, stretch in stretches:
            room = self._batch.capacity - self._batch.size
            wanted = _chunk(stretch, budget, room) if long else stretch
            if (stretch >= TILE) is not long or not 0 < wanted <= (room if long else budget):
                break
            self._slots.evict_idle(self._batch.size + wanted)
            count = min(wanted, self._slots.cells.free - self._batch.size)
            if count <= 0:
                break
            rows.append(self._add(slot, job, count))
            budget -= count
        return rows

    def _media_rows(self, slot: Slot, job: Job, span: MediaSpan, budget: int) -> list[Row]:
        """Rows of a picture or a sound."""
        left, room = span.stop - slot.filled, self._batch.capacity
        wanted = _chunk(left, min(max(budget, TILE), room), room) if span.causal else left
        self._slots.evict_idle(wanted)
        count = min(wanted, self._slots.cells.free)
        if count <= 0 or (count < wanted and not span.causal):
            return []
        last = slot.filled + count == len(job.ids)
        row = self._batch.add_rows(slot.index, span, count, slot.filled, output=last)
        return [Row(slot, job, count, row if last else None)]

    def _add(self, slot: Slot, job: Job, count: int) -> Row:
        start, end = slot.filled, slot.filled + count
        last = end == len(job.ids)
        row = self._batch.add(slot.index, job.ids[start:end], start, output=last)
        return Row(slot, job, count, row if last else None)

    def _decode(self, rows: list[Row]) -> Iterator[Output]:
        """Run the batch and sample where a prompt or a token is complete. Raises CellsExhausted."""
        try:
            self._decoder.decode()
        except DecodeFailed as failure:
            self.failures += 1
            for row in rows:
                yield self._fail(row.slot, row.job, EngineError(str(failure)))
            return
        self.failures = 0
        for slot, _, tokens, _ in rows:
            slot.filled += tokens
            self._slots.cells.extend(slot.index, tokens)
        for slot, job, _, logits in rows:
            if logits is not None:
                yield self._sample(slot, job, logits)

    def _measure(self, seconds: float) -> None:
        """A running mean of what a prompt's token takes."""
        self._seconds_per_token += 0.3 * (seconds / self._batch.size - self._seconds_per_token)

    def _sample(self, slot: Slot, job: Job, row: int) -> Output:
        try:
            token = job.sampler.next(row)
        except MantaError as error:
            return self._fail(slot, job, error)
        except Exception as error:
            log.exception("sampling failed")
            return self._fail(slot, job, EngineError(f"sampling failed: {error}"))
        if token is not None:
            job.ids.append(token.id)
            if not job.sampler.finished and len(job.ids) < job.limit:
                return Output(job, token)
        stopped = token is None or job.sampler.finished
        self._release(slot, job)
        return Output(job, token, "stop" if stopped else "length")


def _chunk(pending: int, wanted: int, room: int) -> int:
    """How much of a long prompt to take when `wanted` tokens would suit and `room` are the limit; 0: nothing.

    What is left of it afterwards should be long enough for tiles, or nothing.
    """
    if pending <= wanted or TILE <= pending < min(2 * TILE, room + 1):
        return pending
    if wanted < TILE:
        return 0
    return wanted if pending - wanted >= TILE else max(pending - TILE, min(wanted, TILE))
