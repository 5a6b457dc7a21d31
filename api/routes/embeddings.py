"""Embeddings."""

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from api.answers.embedding import EmbeddingAnswer
from api.call import Call, Caller, QueryModel
from api.json_body import JSONRoute
from api.schemas.embedding import CreateEmbeddingResponse, EmbeddingCreateParams, to_embed_request
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Embeddings"])

AT_ONCE = 256
"""Inputs whose vectors come from the replica together; more come in pieces, for they take a while."""

SMALL_CHARACTERS = 4096
"""A request of so little text may go to the replica with others of its moment."""

_ANSWER: dict[int | str, dict[str, Any]] = {200: {"model": CreateEmbeddingResponse}}


@router.post("/embeddings", responses=_ANSWER)
async def create_embedding(body: EmbeddingCreateParams, call: Caller, model: QueryModel = None) -> Response:
    """A vector for each input."""
    return await _embed(body, call, model or body.model)


@router.post("/engines/{model:path}/embeddings", responses=_ANSWER)
async def create_engine_embedding(body: EmbeddingCreateParams, call: Caller, model: str) -> Response:
    """The same, with the model in the path: OpenAI's first form of this route."""
    return await _embed(body, call, model)


async def _embed(body: EmbeddingCreateParams, call: Call, name: str | None) -> Response:
    card = call.gateway.resolve(name, Task.EMBEDDING)
    request = await to_embed_request(body, tenant=call.tenant)
    answer = EmbeddingAnswer(name or card.name, base64=body.encoding_format == "base64")
    if len(request.inputs) <= AT_ONCE:
        small = sum(map(len, request.inputs)) <= SMALL_CHARACTERS
        await answer.add(await call.result(card.name, "embed", request, merged=small))
    else:
        await call.each(card.name, "stream_embed", request, answer.add)
    return answer.response()
