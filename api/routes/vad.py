"""Voice activity detection."""

from dataclasses import asdict

from fastapi import APIRouter
from starlette.responses import Response

from api.call import Caller, QueryModel, json_response
from api.gateway import LARGE
from api.json_body import JSONRoute
from api.schemas.vad import VADParams, VADResponse, to_vad_request
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Audio"])


@router.post("/vad", responses={200: {"model": VADResponse}})
async def vad(body: VADParams, call: Caller, model: QueryModel = None) -> Response:
    """Where somebody speaks, in seconds."""
    card = call.gateway.resolve(model or body.model, Task.VAD)
    request = await to_vad_request(body, tenant=call.tenant)
    spans = await call.result(card.name, "detect", request, large=request.audio.nbytes >= LARGE)
    return json_response({"segments": [asdict(span) for span in spans]})
