"""The machines of the cluster, and how another one joins: LocalAI's routes for its federation."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query
from starlette.responses import PlainTextResponse

from api.auth import ADMIN_ONLY
from api.call import Caller, ClusterOf
from api.keys import OPEN
from api.schemas.p2p import P2PNodes, p2p_nodes
from deployments.errors import Forbidden

router = APIRouter(prefix="/api/p2p", tags=["P2P"])


@router.get("")
async def list_nodes(
    cluster: ClusterOf,
    format: Annotated[  # noqa: A002, its name on the wire
        Literal["array", "object"], Query(description="array: LocalAI's document says so; object: its server does.")
    ] = "array",
) -> list[P2PNodes] | P2PNodes:
    """Every live machine and, as `federated_nodes`, those that answer HTTP."""
    nodes = p2p_nodes(await cluster.nodes())
    return nodes if format == "object" else [nodes]


@router.get("/token", response_class=PlainTextResponse, dependencies=[ADMIN_ONLY])
async def show_join_token(call: Caller, cluster: ClusterOf) -> PlainTextResponse:
    """What `make join TOKEN=…` on another machine takes; empty where none may join."""
    token = await cluster.join_token()
    if token and call.key is OPEN:
        raise Forbidden("The token lets its holder run code on the cluster: set an API key, for this is open to all.")
    return PlainTextResponse(token, headers={"Cache-Control": "no-store"})
