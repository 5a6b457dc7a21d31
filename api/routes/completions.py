"""Completions of bare text."""

from fastapi import APIRouter
from starlette.responses import Response

from api.answers.text import completion_answer
from api.call import Call, Caller, QueryModel
from api.json_body import JSONRoute
from api.schemas.completion import Completion, CompletionCreateParams, to_completion_request
from api.sse import streamed
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Completions"])


@router.post("/completions", responses=streamed(Completion))
async def create_completion(body: CompletionCreateParams, call: Caller, model: QueryModel = None) -> Response:
    """What follows each prompt, whole or (`stream`) as it is made."""
    return await _complete(body, call, model or body.model)


@router.post("/engines/{model:path}/completions", responses=streamed(Completion))
async def create_engine_completion(body: CompletionCreateParams, call: Caller, model: str) -> Response:
    """The same, with the model in the path: OpenAI's first form of this route."""
    return await _complete(body, call, model)


async def _complete(body: CompletionCreateParams, call: Call, name: str | None) -> Response:
    card = call.gateway.resolve(name, Task.CHAT)
    request = to_completion_request(body, tenant=call.tenant, request_id=call.request_id)
    answer = completion_answer(name or card.name, include_usage=body.include_usage)
    return await call.answer(card.name, "complete", request, answer, stream=body.stream)
