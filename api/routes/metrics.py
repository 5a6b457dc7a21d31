"""What all of the server's processes have counted."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Header
from starlette.responses import PlainTextResponse, Response

from api.answers.metrics import exposed
from api.call import ClusterOf

router = APIRouter(tags=["System"])


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(cluster: ClusterOf, accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
    """The metrics of the whole server, of every machine, for Prometheus."""
    text, media_type = await asyncio.to_thread(exposed, await cluster.metrics(), accept)
    return Response(text, media_type=media_type)
