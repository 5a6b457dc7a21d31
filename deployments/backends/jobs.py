"""A generation request on its way through an engine that batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from deployments.arrival import Arrival
from deployments.backends.base import FinishReason, Token
from deployments.backends.media_span import MediaSpan
from deployments.backends.token_stream import TokenStream


class TokenSampler(Protocol):
    """Chooses one request's tokens."""

    @property
    def finished(self) -> bool:
        """The output is complete with the last token: no end-of-generation token has to be waited for."""
        ...

    def next(self, row: int) -> Token | None:
        """Choose a token by the logits of a batch row. None: an end-of-generation token."""
        ...

    def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class Job(Arrival):
    """One sequence to generate. It starts when it is first admitted."""

    ids: list[int]
    """The prompt, then what was generated. Rows of media have ids of their own: `media_span.row_ids`."""
    limit: int
    """Length of `ids` at which generation ends."""
    sampler: TokenSampler
    stream: TokenStream
    tenant: str = ""
    cancelled: bool = False
    """Set from any thread; the slot is free at the next step."""
    order: int = -1
    """Place in the order of first admission: who came first is preempted last."""
    cached_tokens: int = 0
    """Prompt tokens found in the cache at first admission."""
    spans: Sequence[MediaSpan] = ()
    """The prompt's pictures and sounds, in the order of their places."""

    def span_at(self, place: int) -> MediaSpan | None:
        """The span that has a row at `place`."""
        return next((span for span in self.spans if span.start <= place < span.stop), None)

    def stretch(self, place: int) -> int:
        """Where the tokens, or the rows of one span, end that begin at `place`."""
        ends = (end for span in self.spans for end in (span.start, span.stop) if end > place)
        return min(ends, default=len(self.ids))

    def whole(self, length: int) -> int:
        """The longest prefix of at most `length` items that cuts no span in two."""
        span = self.span_at(length)
        return length if span is None else span.start


class Output(NamedTuple):
    """What a step did for a job. With a finish reason or an error it is the last."""

    job: Job
    token: Token | None = None
    finish_reason: FinishReason | None = None
    error: Exception | None = None
