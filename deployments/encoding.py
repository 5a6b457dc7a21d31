"""A request's way through an encoder: tokenized in threads and encoded in pieces, its rows given back in order."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from deployments.backends.base import Encoder, Tokens
from deployments.batching import Batcher
from deployments.config import ModelConfig
from deployments.errors import InvalidRequest, Overloaded
from deployments.input_queue import Owner
from deployments.metrics import QUEUE_SECONDS
from deployments.thread_jobs import ThreadJobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PIECE_INPUTS = 256
PIECE_CHARACTERS = 100_000
"""A piece has at most so many of both: it is tokenized in some 10 ms, and queued in less than one."""
SHORT_PIECE = 16
"""Inputs of a piece that is tokenized in a thread with those of other requests."""
PIECES_AHEAD = 16
"""Pieces of a request that are tokenized and unanswered: enough to choose from for batches of one length."""

InputT = TypeVar("InputT", str, "str | bytes")


@dataclass(slots=True)
class Encoded:
    """Consecutive inputs of a request, encoded."""

    rows: "NDArray[np.float32]"
    """[inputs, width]."""
    tokens: int
    truncated: int
    """Inputs that were cut."""


class EncodingPipeline:
    """All requests of one encoder."""

    def __init__(self, encoder: Encoder, config: ModelConfig) -> None:
        self._encoder = encoder
        self._batcher = Batcher(encoder)
        self._truncate = config.truncate is not False
        self._max_queued = -1 if config.max_queued_requests is None else config.max_queued_requests
        self._waited = QUEUE_SECONDS.labels(config.name).observe
        self._requests: set[Owner] = set()
        self._short_jobs = ThreadJobs()

    async def encode(
        self,
        inputs: Sequence[InputT],
        tokenize: Callable[[Sequence[InputT], bool], list[Tokens]],
        *,
        truncate: bool | None,
        tenant: str,
    ) -> AsyncGenerator[Encoded, None]:
        """Pieces in the order of the inputs. `tokenize` takes inputs and whether to truncate them, and may block."""
        cut = self._truncate if truncate is None else truncate

        def tokenized(start: int, end: int) -> list[Tokens]:
            try:
                return tokenize(inputs[start:end], cut)
            except InvalidRequest:
                tokenize(inputs[:end], cut)  # raises again, with the input's index in the whole request
                raise

        pieces: deque[asyncio.Task[Encoded]] = deque()
        with self._admitted(tenant) as owner:
            try:
                for start, end in _pieces(inputs):
                    work = partial(tokenized, start, end)
                    short = end - start <= SHORT_PIECE
                    tokens = await (self._short_jobs.run(work) if short else asyncio.to_thread(work))
                    pieces.append(asyncio.create_task(self._encoded(tokens, owner)))
                    while len(pieces) == PIECES_AHEAD or (pieces and pieces[0].done()):
                        yield await pieces.popleft()
                while pieces:
                    yield await pieces.popleft()
            finally:
                for piece in pieces:
                    piece.cancel()
                await asyncio.gather(*pieces, return_exceptions=True)

    def stats(self) -> dict[str, float]:
        """`slots_busy` counts requests, `queued` their inputs that wait for a batch."""
        return {**self._encoder.stats(), **self._batcher.stats(), "slots_busy": len(self._requests)}

    def close(self) -> None:
        """Free the model. Running requests get EngineError. Idempotent."""
        self._batcher.close()
        self._encoder.close()

    @contextmanager
    def _admitted(self, tenant: str) -> Iterator[Owner]:
        """Raises Overloaded where `max_queued_requests` wait already."""
        if 0 <= self._max_queued <= sum(not owner.started for owner in self._requests):
            raise Overloaded(f"{self._max_queued} requests already wait for this model").after(1)
        owner = Owner(tenant, waited=self._waited)
        self._requests.add(owner)
        try:
            yield owner
        finally:
            self._requests.discard(owner)

    async def _encoded(self, tokens: list[Tokens], owner: Owner) -> Encoded:
        rows = await self._batcher.run(tokens, owner)
        return Encoded(rows, sum(len(t.ids) for t in tokens), sum(t.full_length > 0 for t in tokens))


def _pieces(inputs: Sequence[InputT]) -> Iterator[tuple[int, int]]:
    """Start and end of pieces of a size that is soon tokenized."""
    start = characters = 0
    for place, item in enumerate(inputs):
        if place > start and (place - start == PIECE_INPUTS or characters + len(item) > PIECE_CHARACTERS):
            yield start, place
            start, characters = place, 0
        characters += len(item)
    if inputs:
        yield start, len(inputs)
