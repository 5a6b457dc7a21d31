"""Tokenization."""

from fastapi import APIRouter

from api.call import Caller, QueryModel
from api.json_body import JSONRoute
from api.schemas.tokenize import TokenizeParams, Tokens
from deployments.backends.base import Task, TokenizeRequest

router = APIRouter(route_class=JSONRoute, tags=["Tokens"])


@router.post("/tokenize")
async def tokenize(body: TokenizeParams, call: Caller, model: QueryModel = None) -> Tokens:
    """The token ids of a text."""
    card = call.gateway.resolve(model or body.model, Task.CHAT)
    request = TokenizeRequest(body.content, add_special=body.add_special)
    return Tokens(tokens=await call.result(card.name, "tokenize", request))
