"""Completions: the request, and the object that answers it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import MOST_CHOICES, Integer, Text, text_options
from api.schemas.usage import CompletionUsage
from deployments.backends.base import CompletionRequest
from deployments.errors import InvalidRequest, UnsupportedParameter

_TOKENS = {"type": "array", "items": {"type": "integer"}}


def _prompts(value: object) -> object:
    """OpenAI's four forms (a string, token ids, strings, lists of token ids) as a list of prompts."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise ValueError("expected a string, an array of strings, of token ids, or of arrays of token ids")
    prompts = [value] if value and all(_is_token(item) for item in value) else value
    for prompt in prompts:
        if not isinstance(prompt, str) and not (isinstance(prompt, list) and prompt and all(map(_is_token, prompt))):
            raise ValueError("expected each prompt to be a string or a non-empty array of token ids")
    return prompts


def _is_token(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**31  # bool is an int to isinstance


class CompletionCreateParams(Text):
    prompt: Annotated[
        list[Any],
        BeforeValidator(_prompts),
        Field(min_length=1, max_length=MOST_CHOICES),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {"type": "array", "items": {"type": "string"}},
                    _TOKENS,
                    {"type": "array", "items": _TOKENS},
                ]
            }
        ),
    ]
    logprobs: Annotated[Integer | None, Field(ge=0, le=20)] = None
    """Likeliest tokens to show at each place, beside the one chosen."""
    echo: bool | None = None
    """Begin the text with the prompt."""
    best_of: Annotated[Integer | None, Field(ge=1)] = None
    suffix: str | None = None


class Logprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage


def to_completion_request(wire: CompletionCreateParams, *, tenant: str, request_id: str) -> CompletionRequest:
    """The replica's form of a completion request. Raises InvalidRequest and UnsupportedParameter."""
    choices = wire.n or 1
    if wire.best_of not in (None, choices):
        raise UnsupportedParameter("'best_of' must equal 'n': this server ranks no candidates.").at("best_of")
    if wire.suffix:
        raise UnsupportedParameter("'suffix': this server does not fill in the middle.").at("suffix")
    if wire.echo and wire.logprobs is not None:
        raise UnsupportedParameter("'echo' with 'logprobs': prompt tokens have no logprobs here.").at("logprobs")
    check_choices(len(wire.prompt) * choices)
    return CompletionRequest(
        **text_options(wire, tenant=tenant, request_id=request_id),
        top_logprobs=wire.logprobs,
        prompts=wire.prompt,
        echo=bool(wire.echo),
    )


def check_choices(count: int) -> None:
    """Raises InvalidRequest when a request asks for more sequences than one may."""
    if count > MOST_CHOICES:
        raise InvalidRequest(f"This asks for {count} choices in all; at most {MOST_CHOICES} are allowed.").at("n")
