"""Embeddings: the request, and the object that answers it."""

import asyncio
from array import array
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import Integer, WireModel
from api.schemas.ignored import report_ignored
from api.schemas.truncation import Truncate
from api.schemas.usage import PromptUsage
from api.validation import kind
from deployments.backends.base import EmbedRequest
from deployments.errors import InvalidRequest

MANY = 20_000
"""Token ids, or characters, that are looked at in a millisecond; more are in a thread."""
LARGEST_ID = 2**31 - 1

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
        if not (item and isinstance(item, (str, list))):
            name = "the input" if inputs is not value else f"input[{place}]"
            raise ValueError(_mistake(name, _empty_or_kind(item)))
    return inputs


def _empty_or_kind(item: object) -> str:
    return "an empty string" if item == "" else "an empty array" if item == [] else kind(item)


def _mistake(name: str, what: str) -> str:
    return f"expected non-empty strings or arrays of token ids, but {name} is {what}"


def _ids(ids: Any, place: int) -> bytes:
    """What ids the model has, its tokenizer knows. Raises InvalidRequest."""
    if others := set(map(type, ids)) - {int}:  # at C's speed
        what = kind(next(one for one in ids if type(one) in others))
    elif min(ids) < 0:
        what = "a negative number"
    elif max(ids) > LARGEST_ID:
        what = f"{max(ids)}, which is no token id"
    else:
        return array("i", ids).tobytes()
    raise InvalidRequest(f"Invalid 'input': {_mistake(f'input[{place}]', f'an array that holds {what}')}.").at("input")


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


async def to_embed_request(wire: EmbeddingCreateParams, *, tenant: str) -> EmbedRequest:
    """The replica's form of an embedding request. Raises InvalidRequest for what can't be a token id."""
    report_ignored(wire.model_extra or ())
    many = sum(map(len, wire.input)) > MANY
    inputs = await asyncio.to_thread(_checked, wire.input) if many else _checked(wire.input)
    return EmbedRequest(inputs=inputs, dimensions=wire.dimensions, truncate=wire.truncate, tenant=tenant)


def _checked(inputs: list[Any]) -> list[str | bytes]:
    return [item if isinstance(item, str) else _ids(item, place) for place, item in enumerate(inputs)]
