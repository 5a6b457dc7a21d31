"""Chat completions."""

from fastapi import APIRouter
from starlette.responses import Response

from api.answers.chat import ChatAnswer
from api.call import Caller, QueryModel
from api.content_parts import load_media, read_parts
from api.disconnect import unless_gone
from api.gateway import LARGE
from api.json_body import JSONRoute
from api.schemas.chat import ChatCompletion, ChatCompletionRequest, to_chat_request
from api.sse import streamed
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Chat"])


@router.post("/chat/completions", responses=streamed(ChatCompletion))
async def create_chat_completion(body: ChatCompletionRequest, call: Caller, model: QueryModel = None) -> Response:
    """The next message of a conversation, whole or (`stream`) as it is made."""
    name = model or body.model
    card = call.gateway.resolve(name, Task.CHAT)
    request, files = read_parts(to_chat_request(body, tenant=call.tenant, request_id=call.request_id))
    if files:
        request.media = await unless_gone(call.receive, load_media(files, call.settings))
    answer = ChatAnswer(name or card.name, include_usage=body.include_usage, legacy_calls=bool(body.functions))
    large = sum(len(media.data) for media in request.media) >= LARGE
    return await call.answer(card.name, "chat", request, answer, stream=body.stream, large=large)
