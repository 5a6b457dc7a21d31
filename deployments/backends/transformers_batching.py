"""Continuous batching of padded sequences: who joins the batch, who leaves it. Knows no torch.

One step is a token for every sequence of the batch, then a piece of the prompts that are on their way into it. Prompts
of about one length are prefilled together. transformers' own `ContinuousBatchingManager` is not used: its requests
differ in temperature, top_k and top_p alone (no seed, penalty, bias, constraint or top logprobs), one that fails ends
them all, and without flash attention each token attends to the caches of all sequences.
"""

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from deployments.backends.fair_queue import FairQueue
from deployments.backends.jobs import Job, Output, TokenSampler
from deployments.errors import EngineError, MantaError

log = logging.getLogger("manta.transformers")

STEP_SECONDS = 0.2
"""Time that the prompts of a step may take while somebody is generating: the gap they cause in a stream."""
SHORTEST_PIECE = 16
"""Columns of a prompt that a step takes at least."""
MOST_PADDED = 1.25
"""Prompts are prefilled together as long as that many times their tokens are computed, at most."""
PADDING_IS_FREE = 64
"""Tokens of a batch up to which its time is that of reading the weights."""
HEADROOM = 16
"""Free cells per sequence that a new one must leave: without them it is soon thrown out again."""


class DecodeFailed(Exception):
    """The model failed, in its own words; the sequences that were computed are lost."""


@dataclass(slots=True, eq=False)
class PromptJob(Job):
    """A sequence to generate whose prompt may have media."""

    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What the model reads beside the ids: tensors of a processor. Empty: text."""


class Decoder(Protocol):
    """A model and the batch of sequences it is generating. Rows are in the order in which they joined."""

    batches: bool
    """It can have more than one sequence."""
    splits_prompts: bool
    """A prompt can be computed in pieces, and prompts of different lengths together."""

    @property
    def columns(self) -> int:
        """Tokens of the longest sequence in the batch; the others are padded to it."""
        ...

    def start(self, jobs: Sequence[PromptJob]) -> Any:
        """Prompts, beside the batch; all that is known of them is in the jobs. Nothing is computed."""
        ...

    def prefill(self, prompts: Any, columns: int) -> bool:
        """Compute the next columns of what `start` gave. True: they were the last; the next tokens' logits are
        there, a row for each job. Raises DecodeFailed."""
        ...

    def join(self, prompts: Any) -> None:
        """Take prefilled prompts into the batch, after all others."""
        ...

    def decode(self, ids: Sequence[int]) -> None:
        """Append a token to every sequence, and compute the next ones' logits. Raises DecodeFailed."""
        ...

    def choose(self, samplers: Sequence[TokenSampler]) -> None:
        """Choose the next token of each row of the last logits: `TokenSampler.next` hands it out."""
        ...

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all other rows of the batch."""
        ...


class Prefill:
    """Prompts on their way into the batch."""

    def __init__(self, jobs: list[PromptJob], prompts: Any) -> None:
        self.jobs = jobs
        self.prompts = prompts
        self.columns = max(len(job.ids) for job in jobs)
        """Of each prompt, padding included; `left`: those to be computed."""
        self.left = self.columns


class Scheduler:
    """The queue and the steps."""

    def __init__(
        self,
        decoder: Decoder,
        *,
        slots: int,
        cells: int,
        batch_tokens: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """`cells`: tokens of the batch, padding included. `batch_tokens`: of prompts that are computed at once."""
        self._decoder = decoder
        self._slots = slots if decoder.batches else 1
        self._cells = cells
        self._batch_tokens = batch_tokens
        self._clock = clock
        self._queue: FairQueue[PromptJob] = FairQueue()
        self._orders = itertools.count()
        self._running: list[PromptJob] = []
        """A job for each row of the decoder's batch."""
        self._prefill: Prefill | None = None
        self._seconds_per_token = STEP_SECONDS / PADDING_IS_FREE
        self._crowded = False
        """Somebody was preempted, and nobody has left since: admitting more would only preempt again."""
        self.failures = 0
        """Steps in a row in which the model failed."""

    def submit(self, job: PromptJob) -> None:
        self._queue.push(job)

    @property
    def idle(self) -> bool:
        return not (self._queue or self._running or self._prefill)

    def stats(self) -> dict[str, float]:
        """May be called from another thread."""
        prefill = self._prefill
        arriving, columns = (len(prefill.jobs), prefill.columns) if prefill else (0, 0)
        return {
            "slots": self._slots,
            "slots_busy": len(self._running) + arriving,
            "queued": len(self._queue),
            "kv_cells": self._cells,
            "kv_cells_used": len(self._running) * self._decoder.columns + arriving * columns,
        }

    def step(self) -> Iterator[Output]:
        """A token of everybody in the batch, then prompts. What fails gets its error."""
        self._drop_cancelled()
        self._make_room()
        if self._running:
            yield from self._decode()
        if self._prefill is None:
            self._admit()
        if self._prefill is not None:
            yield from self._advance(self._prefill)

    def fail_all(self, error: MantaError) -> list[Output]:
        jobs = [*self._running, *(self._prefill.jobs if self._prefill else []), *self._queue.discard(lambda _: True)]
        self._prefill = None
        self._leave(self._running)
        return [self._ended(job, error=error) for job in jobs]

    # ---- leaving ----

    def _drop_cancelled(self) -> None:
        gone = [job for job in self._running if job.cancelled]
        if self._prefill and all(job.cancelled for job in self._prefill.jobs):
            gone += self._prefill.jobs
            self._prefill = None
        self._leave([job for job in gone if job in self._running])
        for job in [*gone, *self._queue.discard(lambda job: job.cancelled)]:
            job.sampler.close()

    def _leave(self, gone: Sequence[Job]) -> None:
        """Take these out of the batch."""
        if not gone:
            return
        rows = [row for row, job in enumerate(self._running) if job not in gone]
        self._running = [self._running[row] for row in rows]
        self._decoder.keep(rows)
        self._crowded = False

    def _ended(self, job: Job, error: MantaError) -> Output:
        job.sampler.close()
        return Output(job, error=error)

    def _make_room(self) -> None:
        """A cell for the next token of everybody. Who came last goes, and on later from what it has got so far."""
        while len(self._running) > 1 and len(self._running) * (self._decoder.columns + 1) > self._cells:
            youngest = max(self._running, key=lambda job: job.order)
            self._leave([youngest])
            self._queue.put_back(youngest)
            self._crowded = True

    # ---- joining ----

    def _admit(self) -> None:
        """Start prompts whose turn it is. Who doesn't fit yet keeps the turn; other lengths are passed over."""
        if not self._queue or (self._crowded and self._running):
            return
        jobs: list[PromptJob] = []
        for job in self._queue:
            if not self._fits([*jobs, job]):
                break
            if not jobs or self._belongs(job, jobs):
                jobs.append(job)
        if not jobs:
            return
        for job in jobs:
            self._queue.take(job)
            if job.order < 0:
                job.start()
                job.order = next(self._orders)
        self._prefill = Prefill(jobs, self._decoder.start(jobs))

    def _fits(self, jobs: list[PromptJob]) -> bool:
        """Whether the batch has slots and cells for these beside those that are running."""
        rows = len(self._running) + len(jobs)
        if rows > self._slots:
            return False
        columns = max(self._decoder.columns, *(len(job.ids) for job in jobs))
        return rows == 1 or rows * (columns + HEADROOM) <= self._cells

    def _belongs(self, job: PromptJob, jobs: list[PromptJob]) -> bool:
        """Whether its prompt can be computed together with these."""
        if not self._decoder.splits_prompts or any(one.inputs for one in (job, *jobs)):
            return False
        lengths = [len(one.ids) for one in (job, *jobs)]
        padded = max(lengths) * len(lengths)
        return padded <= min(max(MOST_PADDED * sum(lengths), PADDING_IS_FREE), self._batch_tokens)

    # ---- one batch ----

    def _decode(self) -> Iterator[Output]:
        try:
            self._decoder.decode([job.ids[-1] for job in self._running])
            self._decoder.choose([job.sampler for job in self._running])
        except DecodeFailed as failure:
            yield from self._lost(self._running, failure)
            return
        self.failures = 0
        yield from self._sample(self._running)

    def _advance(self, prefill: Prefill) -> Iterator[Output]:
        """Compute a piece of the prompts; after the last one they join the batch."""
        columns = self._piece(prefill)
        started = self._clock()
        try:
            done = self._decoder.prefill(prefill.prompts, columns)
            if done:
                self._decoder.choose([job.sampler for job in prefill.jobs])
        except DecodeFailed as failure:
            self._prefill = None
            yield from self._lost(prefill.jobs, failure)
            return
        self._measure(self._clock() - started, columns * len(prefill.jobs))
        prefill.left -= columns
        if not done:
            return
        self._prefill = None
        self.failures = 0
        self._decoder.join(prefill.prompts)
        self._running += prefill.jobs
        yield from self._sample(prefill.jobs)

    def _piece(self, prefill: Prefill) -> int:
        """Columns to compute now."""
        if not self._decoder.splits_prompts or prefill.jobs[0].inputs:
            return prefill.left
        tokens = int(STEP_SECONDS / self._seconds_per_token) if self._running else self._batch_tokens
        wanted = min(tokens, self._batch_tokens) // len(prefill.jobs)
        return min(max(wanted, SHORTEST_PIECE), prefill.left)

    def _measure(self, seconds: float, tokens: int) -> None:
        """A running mean of what a prompt's token takes. Small batches say nothing: they read the weights."""
        if tokens >= PADDING_IS_FREE:
            self._seconds_per_token += 0.3 * (seconds / tokens - self._seconds_per_token)

    def _lost(self, jobs: Sequence[Job], failure: DecodeFailed) -> list[Output]:
        """The model failed on these."""
        self.failures += 1
        outputs = [self._ended(job, error=EngineError(str(failure))) for job in jobs]
        self._leave([job for job in jobs if job in self._running])
        return outputs

    def _sample(self, jobs: Sequence[Job]) -> list[Output]:
        """A token for each of these, whose rows the last logits are. Who has ended leaves the batch."""
        outputs = [self._next(job, row) for row, job in enumerate(jobs)]
        self._leave([output.job for output in outputs if output.finish_reason or output.error])
        return outputs

    def _next(self, job: Job, row: int) -> Output:
        try:
            token = job.sampler.next(row)
        except MantaError as error:
            return self._ended(job, error=error)
        except Exception as error:
            log.exception("sampling failed")
            return self._ended(job, error=EngineError(f"sampling failed: {error}"))
        if token is not None:
            job.ids.append(token.id)
            if not job.sampler.finished and len(job.ids) < job.limit:
                return Output(job, token)
        stopped = token is None or job.sampler.finished
        job.sampler.close()
        return Output(job, token, "stop" if stopped else "length")
