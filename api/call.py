"""What a route is given of one HTTP request beside its body: who asks, the way to the models, and the way to answer."""

from dataclasses import dataclass
from typing import Annotated, Any, Protocol

import orjson
from fastapi import Depends, Query
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from api.disconnect import unless_gone
from api.gateway import Gateway
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
    settings: Settings
    tenant: str
    """Whose request this is: a short hash of the API key."""
    request_id: str
    receive: Receive

    async def answer(
        self, model: str, method: str, request: object, answer: TextAnswer, *, stream: bool | None
    ) -> Response:
        """The answer of a replica's `method`, or as it is made by `stream_<method>`."""
        if stream:
            groups = self.gateway.stream(model, f"stream_{method}", request)
            return EventStream(groups, answer.events, self.settings.keepalive)
        return json_response(answer.whole(await self.result(model, method, request)))

    async def result(self, model: str, method: str, request: object) -> Any:
        """The result of a replica's `method`; the replica stops when the client leaves."""
        return await unless_gone(self.receive, self.gateway.call(model, method, request))


def json_response(content: object) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")


async def _call(request: Request) -> Call:
    application, state = request.app.state, request.state
    return Call(application.gateway, application.settings, state.tenant, state.request_id, request.receive)


Caller = Annotated[Call, Depends(_call)]
QueryModel = Annotated[str | None, Query(description="Wins over the body's `model`.")]
