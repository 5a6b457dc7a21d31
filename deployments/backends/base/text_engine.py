"""Text generation, engine side: a prompt's tokens in, generated tokens out."""

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

FinishReason = Literal["stop", "length", "tool_calls"]
"""Why an answer ends. Engines say `stop` or `length`; `tool_calls`: the message calls tools."""


@dataclass(slots=True)
class Sampling:
    """How the next token is chosen. Names and neutral values are llama.cpp's, defaults LocalAI's (localai.md §2.2)."""

    temperature: float = 0.9
    """0 is greedy."""
    top_k: int = 40
    """0 or less: off."""
    top_p: float = 0.95
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    """Tokens that the three penalties look back on; -1: the whole context."""
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    seed: int | None = None
    """None: a random one per request."""
    logit_bias: dict[int, float] = field(default_factory=dict)
    """Token id → what is added to its logit."""
    ignore_eos: bool = False


@dataclass(slots=True)
class Media:
    """A picture or a sound that stands in a prompt."""

    kind: Literal["image", "audio"]
    data: bytes
    """The file as it was sent: PNG, JPEG, WAV, …"""


@dataclass(slots=True)
class Generate:
    """One sequence to generate."""

    tokens: list[int]
    """The prompt. At least one id, unless there is `media`."""
    sampling: Sampling
    max_tokens: int | None = None
    """None: until an end-of-generation token or the end of the context."""
    grammar: str | None = None
    """GBNF (llama.cpp's grammar format)."""
    json_schema: dict[str, Any] | None = None
    """The output must be a JSON document that this schema accepts."""
    lark: str | None = None
    """The output must match this grammar, in llguidance's form of Lark (its docs/syntax.md)."""
    top_logprobs: int | None = None
    """None: no logprobs. k: the token's own and the k most likely ones'."""
    tenant: str = ""
    """Whose request this is; the queue for slots is fair between tenants."""
    resume: list[int] = field(default_factory=list)
    """Ids generated already (by a replica that died): replayed into sampler and constraint, not sent again."""
    prompt: str = ""
    """With `media` the prompt is this text, in which the engine finds the places of the media; `tokens` is empty."""
    media: list[Media] = field(default_factory=list)
    """In the order of their places."""
    add_bos: bool = True
    """BOS goes before `prompt`, where the model wants one. False: it begins with one."""

    @property
    def constrained(self) -> bool:
        """The output must match something."""
        return bool(self.grammar) or self.lark is not None or self.json_schema is not None


@dataclass(slots=True)
class TokenLogprob:
    """A token and its natural-log probability under the model, before any sampler."""

    id: int
    text: bytes
    logprob: float
    top: list["TokenLogprob"] = field(default_factory=list)
    """The most likely tokens at this place, best first; their own `top` is empty."""


@dataclass(slots=True)
class Token:
    """One generated token."""

    id: int
    text: bytes
    """Its bytes: may be part of a UTF-8 character, or empty for a control token.

    Control tokens that mark tool calls or reasoning (`<tool_call>`, `<think>`, …) are empty, too: the chat core finds
    their ids by `tokenize(mark, special=True)` and shows their text itself (`text.marks`).
    """
    logprob: TokenLogprob | None = None


@dataclass(slots=True)
class TokenGroup:
    """What a sequence got since the last group. The group with a `finish_reason` is the last and may have no tokens."""

    tokens: list[Token]
    finish_reason: FinishReason | None = None
    """`stop`: an end-of-generation token (not among `tokens`). `length`: max_tokens or the context's end."""
    cached_tokens: int = 0
    """Prompt tokens whose KV cells were reused, on the first group."""
    prompt_tokens: int | None = None
    """On the first group of a prompt with media, whose length only the engine knows."""
    queue_seconds: float | None = None
    """What the sequence has waited for a slot, on the first group."""


class TextEngine(Protocol):
    """A loaded text-generation engine. Methods are called on the replica's event loop and must not block it."""

    context_size: int
    """Tokens one request may use, prompt and output together."""
    chat_template: str | None
    """The model's own Jinja template."""
    special_tokens: dict[str, str]
    """`bos_token` and `eos_token`, as text, for the chat template."""
    media_markers: Mapping[str, str | None]
    """Kind of Media that the model reads → the text that stands for one in a prompt; None: the model's chat template
    writes it where a message has a part `{"type": <kind>}`. Empty: it reads text only."""

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        """`special`: text like `<|im_end|>` becomes its control token. Thread-safe."""
        ...

    def detokenize(self, tokens: list[int]) -> bytes:
        """As `Token.text`: nothing for a control token. Thread-safe."""
        ...

    def generate(self, request: Generate) -> AsyncGenerator[TokenGroup, None]:
        """Closing the generator frees the slot at the next decode step.

        Raises InvalidRequest (bad grammar, schema or token id) and ContextLengthExceeded before the first group,
        EngineError at any time.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Gauges: slots, slots_busy, queued, kv_cells, kv_cells_used, kv_cache_bytes (set aside), … `slots_busy` 0 and
        `queued` 0: idle."""
        ...

    def close(self) -> None:
        """Stop the engine's thread and free its memory. Running requests get EngineError. Idempotent."""
        ...
