"""Reranking."""

from fastapi import APIRouter
from starlette.responses import Response

from api.answers.rerank import RerankAnswer, cohere_answer, jina_answer
from api.answers.truncation import truncation_headers
from api.call import Call, Caller, QueryModel, json_response
from api.json_body import JSONRoute
from api.schemas.rerank import CohereRerankResponse, RerankParams, RerankResponse, to_rerank_request
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Rerank"])
cohere_router = APIRouter(route_class=JSONRoute, tags=["Rerank"])


@router.post("/rerank", responses={200: {"model": RerankResponse}})
async def rerank(body: RerankParams, call: Caller, model: QueryModel = None) -> Response:
    """Documents in the order of their relevance to a query, as Jina and LocalAI answer."""
    return await _rerank(body, call, model, jina_answer)


@cohere_router.post("/v2/rerank", responses={200: {"model": CohereRerankResponse}})
async def cohere_rerank(body: RerankParams, call: Caller, model: QueryModel = None) -> Response:
    """The same, as Cohere answers."""
    return await _rerank(body, call, model, cohere_answer)


async def _rerank(body: RerankParams, call: Call, model: str | None, answer: RerankAnswer) -> Response:
    name = model or body.model
    card = call.gateway.resolve(name, Task.RERANK)
    scores = await call.result(card.name, "rerank", to_rerank_request(body, tenant=call.tenant))
    return json_response(answer(name or card.name, body, scores), truncation_headers(scores.truncated))
