"""Models' lives, by hand: look at one, load it, shut it down."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request

from api.auth import ADMIN_ONLY
from api.call import Call, Caller, ClusterOf, QueryModel
from api.disconnect import unless_gone
from api.json_body import JSONRoute, parse_json
from api.schemas.backend import (
    BackendLoaded,
    BackendMonitorRequest,
    BackendStopped,
    StatusResponse,
    status_response,
)
from deployments.errors import InvalidRequest

router = APIRouter(prefix="/backend", route_class=JSONRoute, tags=["Backends"])


async def _monitored(request: Request, model: QueryModel = None) -> str:
    """The model's name in the query or, LocalAI's way, in the body of a GET."""
    if model:
        return model
    raw = await request.body()
    body = parse_json(raw) if raw.strip() else None
    named = body.get("model") if isinstance(body, dict) else None
    if not named or not isinstance(named, str):
        raise InvalidRequest('Name the model: ?model=…, or {"model": "…"} as the body.').at("model")
    return named


@router.get("/monitor")
async def monitor_backend(
    call: Caller, cluster: ClusterOf, name: Annotated[str, Depends(_monitored)]
) -> StatusResponse:
    """A model's state, the memory that it takes, its replicas, and the requests it has."""
    return status_response(await cluster.model(_installed(call, name)))


@router.post("/shutdown", dependencies=[ADMIN_ONLY])
async def shut_backend_down(body: BackendMonitorRequest, call: Caller, cluster: ClusterOf) -> BackendStopped:
    """Unload a model once the requests that run on it have ended. The next request loads it again."""
    await unless_gone(call.receive, cluster.unload(_installed(call, body.model)))
    return BackendStopped()


@router.post("/load", dependencies=[ADMIN_ONLY])
async def load_backend(body: BackendMonitorRequest, call: Caller, cluster: ClusterOf) -> BackendLoaded:
    """Load a model; the answer comes when it is ready."""
    name = _installed(call, body.model)
    await unless_gone(call.receive, cluster.load(name))
    return BackendLoaded(loaded=[name])


def _installed(call: Call, name: str) -> str:
    """The model that the name, or alias, stands for. One that this process has not heard of the controller may know."""
    card = next((card for card in call.gateway.cards() if card.name == name), None)
    return card.alias_of or card.name if card else name
