"""Chat, completions and edits: what ingress and replica say to each other."""

from dataclasses import dataclass, field
from typing import Any, Literal

from deployments.backends.base.text_engine import FinishReason, Media, TokenLogprob


@dataclass(slots=True, kw_only=True)
class TextRequest:
    """What chat, completion and edit requests have in common. None: as the model's config says."""

    tenant: str = ""
    request_id: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Fields of Sampling that the client set."""
    max_tokens: int | None = None
    n: int = 1
    stop: list[str] = field(default_factory=list)
    """Added to the config's `stopwords`."""
    top_logprobs: int | None = None
    grammar: str | None = None
    json_schema: dict[str, Any] | None = None
    resume: list[list[int]] = field(default_factory=list)
    """Per choice, ids already delivered (see Generate.resume)."""


@dataclass(slots=True, kw_only=True)
class ChatRequest(TextRequest):
    """`messages` are OpenAI's wire messages as plain dicts; `content` a string, None, or a list of parts.

    A part is `{"type": "text", "text": …}`, or `{"type": "image" | "audio", "index": i}` for `media[i]`.
    """

    messages: list[dict[str, Any]]
    media: list[Media] = field(default_factory=list)
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Extra variables for the chat template (`chat_template_kwargs`, `reasoning_effort`)."""
    tools: list[dict[str, Any]] = field(default_factory=list)
    """OpenAI's `{"type": "function", "function": {name, description, parameters, strict}}`; names are unique."""
    tool_choice: Literal["none", "auto", "required"] = "auto"
    tool_name: str | None = None
    """The one tool that must be called, with `required`."""
    parallel_tool_calls: bool = True
    """One answer may hold several calls."""


@dataclass(slots=True, kw_only=True)
class CompletionRequest(TextRequest):
    """Choice `i * n + j` is the j-th answer to prompt i."""

    prompts: list[str | list[int]]
    echo: bool = False


@dataclass(slots=True, kw_only=True)
class EditRequest(TextRequest):
    """Choice `i * n + j` is the j-th edit of input i."""

    inputs: list[str]
    instruction: str = ""


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of one tool call of a choice."""

    index: int
    """Place of the call in its message, from 0. A call's pieces are not mixed with the next one's."""
    id: str = ""
    """`call_…`, on the call's first piece alone, and so is the name."""
    name: str = ""
    arguments: str = ""
    """A piece of the JSON text."""


@dataclass(slots=True)
class Delta:
    """A piece of one choice."""

    index: int
    text: str = ""
    """Of the message's content; without reasoning and tool calls."""
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprob] | None = None
    token_ids: list[int] = field(default_factory=list)
    """All ids generated since this choice's last delta, also those whose text is still held back: enough to resume."""
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)


@dataclass(slots=True)
class Usage:
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt tokens, those found in the KV cache."""


@dataclass(slots=True)
class DeltaGroup:
    """Deltas that were ready together cross together. `usage` stands on the last group alone."""

    deltas: list[Delta]
    usage: Usage | None = None


@dataclass(slots=True)
class Choice:
    """One whole answer: the stream of its deltas, collected."""

    index: int
    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None
    reasoning: str = ""
    tool_calls: list[ToolCallDelta] = field(default_factory=list)
    """Whole calls, one for each."""


@dataclass(slots=True)
class TextResult:
    choices: list[Choice]
    usage: Usage


@dataclass(slots=True)
class TokenizeRequest:
    content: str
    add_special: bool = False
    """Prepend the model's BOS token, where it wants one."""
