"""Chat completions: the request, and the objects that answer it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from api.schemas.common import LARGEST_COUNT, Integer, Text, WireModel, text_options
from api.schemas.usage import CompletionUsage
from api.validation import kind
from deployments.backends.base import ChatRequest
from deployments.errors import InvalidRequest, UnsupportedParameter

PART_TYPES = frozenset(
    {"text", "refusal", "image", "image_url", "video", "video_url", "audio_url", "input_audio", "file"}
)
"""Kinds of content parts that clients send. The model says which it takes."""


class ChatCompletionMessageParam(WireModel):
    """One message; fields that only some roles have (`tool_calls`, `tool_call_id`, …) pass as they are."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[dict[str, Any]] | None = None
    name: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _content(cls, content: object) -> object:
        if isinstance(content, list):
            for part in content:
                _check_part(part)
        elif not isinstance(content, (str, type(None))):
            raise ValueError(f"expected a string or an array of parts, but got {kind(content)}")
        return content


class ChatCompletionRequest(Text):
    """OpenAI's `CompletionCreateParams` of chat."""

    messages: Annotated[list[ChatCompletionMessageParam], Field(min_length=1)]
    max_completion_tokens: Annotated[Integer | None, Field(ge=0, le=LARGEST_COUNT)] = None
    """The newer name of `max_tokens`; it wins."""
    logprobs: bool | None = None
    top_logprobs: Annotated[Integer | None, Field(ge=0, le=20)] = None
    """Likeliest tokens to show at each place; needs `logprobs`."""
    modalities: list[str] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    functions: list[Any] | None = None
    function_call: Any = None
    web_search_options: dict[str, Any] | None = None

    # LocalAI's, and that of llama.cpp's and vLLM's servers
    chat_template_kwargs: dict[str, Any] | None = None
    """Extra variables for the model's chat template."""


class ChatCompletionMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None


class TopLogprob(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ChatCompletionTokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[ChatCompletionTokenLogprob]


class ChatChoice(BaseModel):
    index: int
    message: ChatCompletionMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


def to_chat_request(wire: ChatCompletionRequest, *, tenant: str, request_id: str) -> ChatRequest:
    """The replica's form of a chat request. Raises InvalidRequest and UnsupportedParameter."""
    _check_supported(wire)
    options = text_options(wire, tenant=tenant, request_id=request_id)
    if wire.max_completion_tokens is not None:
        options["max_tokens"] = wire.max_completion_tokens or None
    return ChatRequest(
        **options,
        top_logprobs=_top_logprobs(wire),
        messages=[_message(message) for message in wire.messages],
        template_kwargs=wire.chat_template_kwargs or {},
    )


def _message(message: ChatCompletionMessageParam) -> dict[str, Any]:
    plain = message.model_dump(exclude_unset=True)
    plain.setdefault("content", None)
    if plain["role"] == "developer":  # OpenAI's newer name, which no chat template knows
        plain["role"] = "system"
    return plain


def _top_logprobs(wire: ChatCompletionRequest) -> int | None:
    if wire.logprobs:
        return wire.top_logprobs or 0
    if wire.top_logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.").at("top_logprobs")
    return None


def _check_supported(wire: ChatCompletionRequest) -> None:
    for field, choice in (("tools", wire.tool_choice), ("functions", wire.function_call)):
        if getattr(wire, field) and choice != "none":
            raise UnsupportedParameter(f"'{field}': tool calls are not supported yet.").at(field)
    if set(wire.modalities or ()) - {"text"}:
        raise UnsupportedParameter("'modalities': this server answers in text only.").at("modalities")
    if wire.web_search_options is not None:
        raise UnsupportedParameter("'web_search_options': this server has no web search.").at("web_search_options")


def _check_part(part: object) -> None:
    if not isinstance(part, Mapping):
        raise ValueError(f"expected each part to be an object, but got {kind(part)}")
    if part.get("type") not in PART_TYPES:
        raise ValueError(f"expected each part to have a 'type' of {', '.join(sorted(PART_TYPES))}")
    if part["type"] == "text" and not isinstance(part.get("text"), str):
        raise ValueError(f"expected a text part to have a string as 'text', but got {kind(part.get('text'))}")
