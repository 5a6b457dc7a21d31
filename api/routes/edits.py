"""Edits of given text."""

from fastapi import APIRouter
from starlette.responses import Response

from api.answers.text import edit_answer
from api.call import Caller, QueryModel
from api.json_body import JSONRoute
from api.schemas.edit import Edit, EditCreateParams, to_edit_request
from api.sse import streamed
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Edits"])


@router.post("/edits", responses=streamed(Edit))
async def create_edit(body: EditCreateParams, call: Caller, model: QueryModel = None) -> Response:
    """Each input, changed as the instruction says, whole or (`stream`) as it is made."""
    name = model or body.model
    card = call.gateway.resolve(name, Task.CHAT)
    request = to_edit_request(body, tenant=call.tenant, request_id=call.request_id)
    answer = edit_answer(name or card.name, include_usage=body.include_usage)
    return await call.answer(card.name, "edit", request, answer, stream=body.stream)
