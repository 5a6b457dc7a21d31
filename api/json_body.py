"""JSON bodies, read leniently as to the Content-Type and strictly as to the JSON."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from deployments.errors import InvalidRequest

MAX_DEPTH = 100
"""Arrays and objects inside each other. More would break recursive code further in, pickle first."""
LARGE = 2**20
"""Bytes of a body that is parsed in a thread: a megabyte of numbers takes some 10 ms: others need not wait."""


class JSONRoute(APIRoute):
    """A route whose body is JSON whatever its Content-Type says: many a curl user forgets it."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def with_json(request: Request) -> Response:
            # Parsed here, outside FastAPI's catch-all that would turn a 413 into a 400.
            raw = await request.body()
            value = parse_json(raw) if len(raw) < LARGE else await asyncio.to_thread(parse_json, raw)
            return await handler(_Parsed(request, value))

        return with_json


def parse_json(raw: bytes) -> Any:
    """The value of a JSON document. Raises InvalidRequest with the place of the mistake."""
    if not raw.strip():
        raise InvalidRequest("The body is empty; send a JSON object.")
    try:
        value = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}.") from None  # its `doc` is the whole body
    # Counting brackets is an upper bound of the depth that costs next to nothing.
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH and _deeper_than(value, MAX_DEPTH):
        raise InvalidRequest(f"The body nests arrays and objects more than {MAX_DEPTH} deep.")
    return value


class _Parsed(Request):
    """A request whose JSON is known already."""

    def __init__(self, request: Request, value: Any) -> None:
        headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
        super().__init__(
            {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}, request.receive
        )
        self._value = value

    async def body(self) -> bytes:
        return b"{}"  # FastAPI looks here only for whether there is a body; `json` has what it is

    async def json(self) -> Any:
        return self._value


_CONTAINERS = frozenset((dict, list))


def _deeper_than(value: Any, limit: int) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        contents = [container.values() if isinstance(container, dict) else container for container in level]
        # Most arrays hold none: the set finds that out at C's speed.
        nested = [items for items in contents if not _CONTAINERS.isdisjoint(map(type, items))]
        level = [item for items in nested for item in items if type(item) in _CONTAINERS]
        if not level:
            return False
    return True
