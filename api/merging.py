"""Small requests of the same moment to one model, sent to its replica as one: a crossing costs more than they do."""

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from functools import partial
from typing import Any, NamedTuple

from deployments.gathering import Gathering

MOST = 8
"""Requests in one call. Serve counts a call as one request, and autoscaling and routing go by its counts."""


class _Waiting(NamedTuple):
    request: object
    answer: asyncio.Future[Any]


class Merger:
    """Calls a replica's `<method>_each` with a list of requests. It returns their results, or the errors of those that
    failed, in the same order."""

    def __init__(self, call: Callable[[str, str, object], Awaitable[Any]]) -> None:
        """`call` takes a model, a method and its argument."""
        self._one_call = call
        self._gatherings: dict[tuple[str, str], Gathering[_Waiting]] = {}
        """Of the models and methods that were called in this turn of the loop."""
        self._calls: set[asyncio.Task[None]] = set()

    async def call(self, model: str, method: str, request: object) -> Any:
        """The result of the request. A call that nobody waits for any more is cancelled."""
        key = (model, method)
        if (gathering := self._gatherings.get(key)) is None:
            gathering = self._gatherings[key] = Gathering(partial(self._send, *key))
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        gathering.add(_Waiting(request, answer))
        return await answer

    def _send(self, model: str, method: str, waiting: list[_Waiting]) -> None:
        del self._gatherings[model, method]
        waiting = [one for one in waiting if not one.answer.done()]
        for start in range(0, len(waiting), MOST):
            together = waiting[start : start + MOST]
            call = asyncio.create_task(self._call(model, method, together))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            for one in together:
                one.answer.add_done_callback(partial(_end_unless_wanted, call, together))

    async def _call(self, model: str, method: str, together: list[_Waiting]) -> None:
        requests = [one.request for one in together]
        try:
            if len(requests) == 1:
                results = [await self._one_call(model, method, requests[0])]
            else:
                results = await self._one_call(model, f"{method}_each", requests)
        except Exception as error:  # noqa: BLE001 – each who waits is told
            results = [copy(error) for _ in together]  # an instance gathers the tracebacks of all who raise it
        for one, result in zip(together, results, strict=True):
            if one.answer.done():
                continue
            if isinstance(result, Exception):
                one.answer.set_exception(result)
            else:
                one.answer.set_result(result)


def _end_unless_wanted(call: asyncio.Task[None], together: list[_Waiting], _answer: asyncio.Future[Any]) -> None:
    if not call.done() and all(one.answer.done() for one in together):
        call.cancel()
