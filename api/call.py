"""What a route is given of one HTTP request beside its body: who asks, the way to the models, and the way to answer."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import orjson
from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from api.cluster_gateway import ClusterGateway
from api.disconnect import unless_gone
from api.gallery_gateway import GalleryGateway
from api.gateway import Gateway
from api.keyed_gateway import KeyedGateway
from api.keys import Key
from api.settings import Settings
from api.sse import EventStream
from deployments.backends.base import DeltaGroup, TextResult


class TextAnswer(Protocol):
    """How one answer looks on the wire, whole and in pieces."""

    def whole(self, result: TextResult) -> dict[str, Any]: ...

    def events(self, group: DeltaGroup) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request, as a route needs it."""

    gateway: Gateway
    """The models that the key allows."""
    settings: Settings
    key: Key
    request_id: str
    receive: Receive

    @property
    def tenant(self) -> str:
        """Whose request this is: a short hash of the API key."""
        return self.key.tenant

    async def answer(
        self,
        model: str,
        method: str,
        request: object,
        answer: TextAnswer,
        *,
        stream: bool | None,
        large: bool = False,
    ) -> Response:
        """The answer of a replica's `method`, or as it is made by `stream_<method>`. `large`: as of the gateway."""
        if stream:
            groups = self.gateway.stream(model, f"stream_{method}", request, large=large)
            return EventStream(groups, answer.events, self.settings.keepalive)
        return json_response(answer.whole(await self.result(model, method, request, large=large)))

    async def result(
        self, model: str, method: str, request: object, *, large: bool = False, merged: bool = False
    ) -> Any:
        """The result of a replica's `method`; the replica stops when the client leaves. `large`, `merged`: as of the
        gateway."""
        answer = self.gateway.call(model, method, request, large=large, merged=merged)
        return await unless_gone(self.receive, answer)

    async def each(self, model: str, method: str, request: object, take: Callable[[Any], Awaitable[None]]) -> None:
        """Give what a replica's streaming `method` makes to `take`, one item after the other; as `result` else."""

        async def consume() -> None:
            async with aclosing(self.gateway.stream(model, method, request)) as items:
                async for item in items:
                    await take(item)

        await unless_gone(self.receive, consume())


def json_response(content: object, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(content), headers=headers, media_type="application/json")


async def _call(request: Request) -> Call:
    application, state = request.app.state, request.state
    gateway = KeyedGateway(application.gateway, state.meter)
    return Call(gateway, application.settings, state.key, state.request_id, request.receive)


Caller = Annotated[Call, Depends(_call)]


async def _gallery(request: Request) -> GalleryGateway:
    gateway: GalleryGateway = request.app.state.gallery
    return gateway


async def _cluster(request: Request) -> ClusterGateway:
    cluster: ClusterGateway = request.app.state.cluster
    return cluster


GalleryOf = Annotated[GalleryGateway, Depends(_gallery)]
ClusterOf = Annotated[ClusterGateway, Depends(_cluster)]
QueryModel = Annotated[str | None, Query(description="Wins over the body's `model`.")]
