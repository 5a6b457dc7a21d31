"""Chat completions: the request, and the objects that answer it."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, field_validator

from api.schemas.common import LARGEST_COUNT, Integer, Text, WireModel, text_options
from api.schemas.tool import (
    MOST_TOOLS,
    ChatCompletionMessageToolCall,
    ChatCompletionMessageToolCallParam,
    FunctionCallParam,
    FunctionChoice,
    FunctionDefinition,
    Tool,
    ToolCallFunction,
    ToolChoice,
    tool_options,
)
from api.schemas.usage import CompletionUsage
from api.validation import kind
from deployments.backends.base import ChatRequest
from deployments.errors import InvalidRequest, UnsupportedParameter


class ChatCompletionMessageParam(WireModel):
    """One message. What else it has, such as `reasoning_content`, the model's template sees too."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Any] | None = None
    """Text, or an array of parts: text, images, sounds."""
    name: str | None = None
    tool_calls: list[ChatCompletionMessageToolCallParam] | None = None
    """What the assistant called."""
    tool_call_id: str | None = None
    """The call that a `tool` message answers."""
    function_call: FunctionCallParam | None = None
    """The older form of `tool_calls`."""

    @field_validator("content", mode="before")
    @classmethod
    def _content(cls, content: object) -> object:
        if not isinstance(content, (str, list, type(None))):
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
    tools: Annotated[list[Tool] | None, Field(max_length=MOST_TOOLS)] = None
    tool_choice: ToolChoice = None
    parallel_tool_calls: bool | None = None
    """One answer may call several tools; so it is when left out."""
    functions: Annotated[list[FunctionDefinition] | None, Field(max_length=MOST_TOOLS)] = None
    """The older form of `tools`; the answer then has a `function_call`."""
    function_call: FunctionChoice = None
    reasoning_effort: str | None = None
    """How long to think, as the model's chat template knows it: `none`, `low`, `medium`, `high`, …"""
    web_search_options: dict[str, Any] | None = None

    # LocalAI's, and that of llama.cpp's and vLLM's servers
    chat_template_kwargs: dict[str, Any] | None = None
    """Extra variables for the model's chat template."""
    metadata: dict[str, Any] | None = None
    """Of it, `enable_thinking` and `reasoning_effort` are variables for the template, too."""


class ChatCompletionMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | None = None
    """What a model that reasons wrote before its answer."""
    tool_calls: list[ChatCompletionMessageToolCall] | None = None
    function_call: ToolCallFunction | None = None


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
    finish_reason: Literal["stop", "length", "tool_calls", "function_call"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: CompletionUsage


def to_chat_request(wire: ChatCompletionRequest, *, tenant: str, request_id: str) -> ChatRequest:
    """The replica's form of a chat request, content parts as they came (`content_parts.py` reads them).

    Raises InvalidRequest and UnsupportedParameter.
    """
    _check_supported(wire)
    options = text_options(wire, tenant=tenant, request_id=request_id) | tool_options(
        wire.tools or (),
        wire.functions or (),
        tool_choice=wire.tool_choice,
        function_call=wire.function_call,
        parallel=wire.parallel_tool_calls,
    )
    if wire.max_completion_tokens is not None:
        options["max_tokens"] = wire.max_completion_tokens or None
    return ChatRequest(
        **options,
        top_logprobs=_top_logprobs(wire),
        messages=[_message(message, index) for index, message in enumerate(wire.messages)],
        template_kwargs=_template_kwargs(wire),
    )


def _check_supported(wire: ChatCompletionRequest) -> None:
    if set(wire.modalities or ()) - {"text"}:
        raise UnsupportedParameter("'modalities': this server answers in text only.").at("modalities")
    if wire.web_search_options is not None:
        raise UnsupportedParameter("'web_search_options': this server has no web search.").at("web_search_options")


def _message(message: ChatCompletionMessageParam, index: int) -> dict[str, Any]:
    if message.role == "tool" and not (message.tool_call_id or message.name):  # LocalAI's clients send the name
        param = f"messages[{index}].tool_call_id"
        raise InvalidRequest(f"Missing required parameter: '{param}'.").at(param)
    plain = message.model_dump(exclude_unset=True)
    plain.setdefault("content", None)
    if message.tool_calls:
        plain["tool_calls"] = [call.model_dump(exclude_none=True) for call in message.tool_calls]
    if "reasoning" in plain:  # LocalAI's and vLLM's name for what templates know by the other
        plain.setdefault("reasoning_content", plain.pop("reasoning"))
    if message.role == "developer":  # OpenAI's newer name, which no chat template knows
        plain["role"] = "system"
    return plain


_TEMPLATE_METADATA: dict[str, Callable[[Any], Any]] = {
    "enable_thinking": lambda value: str(value).lower() not in ("false", "0", "no", "off"),
    "reasoning_effort": str,
}
"""Keys of `metadata` that LocalAI forwards to the template → from metadata's strings to the template's values."""


def _template_kwargs(wire: ChatCompletionRequest) -> dict[str, Any]:
    metadata = wire.metadata or {}
    kwargs = {key: read(metadata[key]) for key, read in _TEMPLATE_METADATA.items() if metadata.get(key) is not None}
    if wire.reasoning_effort:
        kwargs["reasoning_effort"] = wire.reasoning_effort
    return kwargs | (wire.chat_template_kwargs or {})


def _top_logprobs(wire: ChatCompletionRequest) -> int | None:
    if wire.logprobs:
        return wire.top_logprobs or 0
    if wire.top_logprobs:
        raise InvalidRequest("'top_logprobs' needs 'logprobs': true.").at("top_logprobs")
    return None
