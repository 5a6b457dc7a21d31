"""Reranking: Jina's and Cohere's request, which are one, and the two objects that answer it."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import Integer, WireModel
from api.schemas.ignored import report_ignored
from api.schemas.truncation import Truncate
from api.schemas.usage import PromptUsage
from api.validation import kind
from deployments.backends.base import RerankRequest
from deployments.errors import InvalidRequest

Document = str | dict[str, Any]
"""A text, or an object with one in `text`."""

_DOCUMENT = {"anyOf": [{"type": "string"}, {"type": "object", "properties": {"text": {"type": "string"}}}]}


def _query(value: object) -> object:
    text = value.get("text") if isinstance(value, dict) else value
    if text == "":
        raise ValueError("expected a non-empty string")
    return text


def _documents(value: object) -> object:
    if not isinstance(value, list):
        raise ValueError(f"expected an array, but got {kind(value)}")
    if not value:
        raise ValueError("expected at least one document, but the array is empty")
    for place, document in enumerate(value):
        if not isinstance(document, str | dict):
            raise ValueError(f"expected strings or objects, but documents[{place}] is {kind(document)}")
    return value


class RerankParams(WireModel):
    model: str | None = None
    """Left out: the first model that can do it."""
    query: Annotated[str, BeforeValidator(_query), WithJsonSchema(_DOCUMENT)]
    documents: Annotated[
        list[Any],
        BeforeValidator(_documents),
        WithJsonSchema({"type": "array", "items": _DOCUMENT, "minItems": 1}),
    ]
    top_n: Annotated[Integer | None, Field(ge=1)] = None
    """Return the best so many. Left out: all."""
    return_documents: bool | None = None
    """Return each document with its score. Left out: yes under /v1 as Jina, no under /v2 as Cohere."""
    rank_fields: Annotated[list[str] | None, Field(min_length=1)] = None
    """Cohere's: which fields of a document that is an object are its text, in this order. Left out: `text`."""

    # Ours, and Text Embeddings Inference's
    truncate: Truncate | None = None
    """Cut documents that are too long, `X-Truncated-Inputs` says how many; false: refuse them. Left out: as the model's
    config says."""


class RankedDocument(BaseModel):
    index: int
    """Its place in the request."""
    document: dict[str, Any] | None = None
    relevance_score: float


class RerankResponse(BaseModel):
    """Jina's and LocalAI's."""

    model: str
    usage: PromptUsage
    results: list[RankedDocument]
    """The most relevant first."""


class APIVersion(BaseModel):
    version: str


class TokenCounts(BaseModel):
    input_tokens: int
    output_tokens: int


class RerankMeta(BaseModel):
    api_version: APIVersion
    tokens: TokenCounts


class CohereRerankResponse(BaseModel):
    """Cohere's, of version 2."""

    id: str
    results: list[RankedDocument]
    """The most relevant first."""
    meta: RerankMeta


def to_rerank_request(wire: RerankParams, *, tenant: str) -> RerankRequest:
    """The replica's form of a rerank request. Raises InvalidRequest for an object without its text."""
    report_ignored(wire.model_extra or ())
    fields = wire.rank_fields or ["text"]
    documents = [
        document if isinstance(document, str) else _text(document, fields, place)
        for place, document in enumerate(wire.documents)
    ]
    return RerankRequest(query=wire.query, documents=documents, truncate=wire.truncate, tenant=tenant)


def _text(document: dict[str, Any], fields: list[str], place: int) -> str:
    for field in fields:
        if not isinstance(document.get(field), str):
            name = f"documents[{place}].{field:.64}"
            found = kind(document[field]) if field in document else "nothing"
            raise InvalidRequest(f"Invalid '{name}': expected a string, but got {found}.").at(name)
    return "\n".join(document[field] for field in fields)
