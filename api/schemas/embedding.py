"""Embeddings: the request, and the object that answers it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import Integer, WireModel
from api.schemas.ignored import report_ignored
from api.schemas.truncation import Truncate
from api.schemas.usage import PromptUsage
from api.validation import kind
from deployments.backends.base import EmbedRequest

_TEXT = {"type": "string", "minLength": 1}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}


def _inputs(value: object) -> object:
    """OpenAI's four forms (a string, token ids, strings, lists of token ids) as a list of inputs.

    Strings and lists of ids may stand side by side, which OpenAI refuses: each is an input, there is no doubt.
    """
    inputs = [value] if isinstance(value, str) else value
    if not isinstance(inputs, list):
        raise ValueError("expected a string, an array of strings, of token ids, or of arrays of token ids")
    if not inputs:
        raise ValueError("expected at least one input, but the array is empty")
    if type(inputs[0]) is int:
        inputs = [inputs]
    for place, item in enumerate(inputs):
        if mistake := _mistake(item):
            name = "the input" if inputs is not value else f"input[{place}]"
            raise ValueError(f"expected non-empty strings or arrays of token ids, but {name} is {mistake}")
    return inputs


def _mistake(item: object) -> str | None:
    """Why this is no input. What ids the model has, its tokenizer knows."""
    if isinstance(item, str):
        return None if item else "an empty string"
    if not isinstance(item, list):
        return kind(item)
    if not item:
        return "an empty array"
    if others := set(map(type, item)) - {int}:  # at C's speed: a body may hold millions of ids
        return f"an array that holds {kind(next(one for one in item if type(one) in others))}"
    return "an array that holds a negative number" if min(item) < 0 else None


class EmbeddingCreateParams(WireModel):
    model: str | None = None
    """Left out: the first model that can do it."""
    input: Annotated[
        list[Any],
        BeforeValidator(_inputs),
        WithJsonSchema(
            {"anyOf": [_TEXT, _TOKENS, {"type": "array", "items": {"anyOf": [_TEXT, _TOKENS]}, "minItems": 1}]}
        ),
    ]
    """As many as the limit on bodies leaves room for."""
    encoding_format: Literal["float", "base64"] | None = None
    """base64: the vector's float32 numbers, little-endian."""
    dimensions: Annotated[Integer | None, Field(ge=1)] = None
    """Cut each vector to so many numbers, and normalise it again."""

    # Ours, Cohere's and Text Embeddings Inference's
    truncate: Truncate | None = None
    """Cut inputs that are too long, `X-Truncated-Inputs` says how many; false: refuse them. Left out: as the model's
    config says."""


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class CreateEmbeddingResponse(BaseModel):
    id: str
    object: Literal["list"]
    created: int
    model: str
    data: list[Embedding]
    usage: PromptUsage


def to_embed_request(wire: EmbeddingCreateParams, *, tenant: str) -> EmbedRequest:
    """The replica's form of an embedding request."""
    report_ignored(wire.model_extra or ())
    return EmbedRequest(inputs=wire.input, dimensions=wire.dimensions, truncate=wire.truncate, tenant=tenant)
