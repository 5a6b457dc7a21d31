"""Serve's handles and responses, as much of them as is used, over plain functions."""

from collections.abc import AsyncIterator, Callable
from typing import Any


class Method:
    def __init__(self, function: Callable[..., Any]) -> None:
        self.remote = function


class Handle:
    """As much of a DeploymentHandle as is used: `handle.options(...).method.remote(...)`."""

    def __init__(self, **methods: Callable[..., Any]) -> None:
        self._methods = methods

    def options(self, **_: Any) -> "Handle":
        return self

    def __getattr__(self, name: str) -> Method:
        return Method(self._methods[name])


class Response:
    """A response generator of Serve: async iterator with cancel()."""

    def __init__(self, items: AsyncIterator[Any]) -> None:
        self._items = items
        self.cancelled = False

    def __aiter__(self) -> "Response":
        return self

    async def __anext__(self) -> Any:
        return await anext(self._items)

    def cancel(self) -> None:
        self.cancelled = True


class Unary:
    """A response of Serve: awaitable with cancel()."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.cancelled = False

    def __await__(self) -> Any:
        return self._work().__await__()

    def cancel(self) -> None:
        self.cancelled = True
