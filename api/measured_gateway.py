"""What is counted of each request for a model. A gateway around another: the routes know nothing of it."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import cached_property
from typing import Any

from prometheus_client import Histogram

from api.gateway import Gateway
from deployments import metrics
from deployments.backends.base import DeltaGroup, ModelCard, Scores, Task, TextResult, Usage, Vectors
from deployments.errors import MantaError


class MeasuredGateway:
    """Counts what goes through another `Gateway`: seconds, errors, tokens.

    Requests that were never for an installed model (`resolve` refused them) have no name to be counted by. Of one
    whose client left counts only what was written until then.
    """

    def __init__(self, gateway: Gateway, clock: Callable[[], float] = time.perf_counter) -> None:
        self._gateway = gateway
        self._clock = clock

    def cards(self) -> list[ModelCard]:
        return self._gateway.cards()

    def resolve(self, name: str | None, task: Task) -> ModelCard:
        return self._gateway.resolve(name, task)

    async def call(self, model: str, method: str, request: object, *, large: bool = False, merged: bool = False) -> Any:
        with self._measured(model, method):
            result = await self._gateway.call(model, method, request, large=large, merged=merged)
        if usage := _usage(result):
            _count(model, usage)
        return result

    async def stream(
        self, model: str, method: str, request: object, *, large: bool = False
    ) -> AsyncGenerator[Any, None]:
        tokens = _StreamedTokens(model, self._clock)
        try:
            with self._measured(model, method):
                async with aclosing(self._gateway.stream(model, method, request, large=large)) as items:
                    async for item in items:
                        if isinstance(item, DeltaGroup):
                            tokens.see(item)
                        elif usage := _usage(item):
                            _count(model, usage)
                        yield item
        finally:
            tokens.count()

    async def reload(self) -> dict[str, str]:
        return await self._gateway.reload()

    def ready(self) -> str | None:
        return self._gateway.ready()

    @contextmanager
    def _measured(self, model: str, method: str) -> Iterator[None]:
        """Seconds of what ends well, by what was asked for: `chat` and `stream_chat` are the same. Else the error."""
        began = self._clock()
        try:
            yield
        except Exception as error:
            code = error.code if isinstance(error, MantaError) else MantaError.code
            metrics.REQUEST_ERRORS.labels(model, code).inc()
            raise
        metrics.REQUEST_SECONDS.labels(model, method.removeprefix("stream_")).observe(self._clock() - began)


class _StreamedTokens:
    """The tokens of one stream, and when they came."""

    def __init__(self, model: str, clock: Callable[[], float]) -> None:
        self._model = model
        self._clock = clock
        self._began = clock()
        self._last: dict[int, float] = {}
        """Choice → when its last tokens came."""
        self._written = 0
        self._usage: Usage | None = None

    @cached_property
    def _gaps(self) -> Histogram:
        return metrics.INTER_TOKEN_SECONDS.labels(self._model)

    def see(self, group: DeltaGroup) -> None:
        """Tokens that come together count as if they had come one by one since those before them."""
        now = self._clock()
        for delta in group.deltas:
            if not (count := len(delta.token_ids)):
                continue
            if not self._last:
                metrics.FIRST_TOKEN_SECONDS.labels(self._model).observe(now - self._began)
            if (last := self._last.get(delta.index)) is not None:
                gap = (now - last) / count
                for _ in range(count):
                    self._gaps.observe(gap)
            self._last[delta.index] = now
            self._written += count
        self._usage = group.usage or self._usage

    def count(self) -> None:
        """The stream has ended. The usage comes with its last group; who left before has had some tokens at least."""
        _count(self._model, self._usage or Usage(completion_tokens=self._written))


def _usage(item: object) -> Usage | None:
    """Tokens of a whole answer, or of a piece of one."""
    if isinstance(item, TextResult):
        return item.usage
    return Usage(item.prompt_tokens) if isinstance(item, Vectors | Scores) else None


def _count(model: str, usage: Usage) -> None:
    for counter, tokens in (
        (metrics.PROMPT_TOKENS, usage.prompt_tokens),
        (metrics.CACHED_PROMPT_TOKENS, usage.cached_tokens),
        (metrics.COMPLETION_TOKENS, usage.completion_tokens),
    ):
        if tokens:
            counter.labels(model).inc(tokens)
