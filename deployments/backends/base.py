"""What an engine offers and what crosses a handle: a small Protocol per task, and its request and result types.

Standard-library dataclasses only. They are pickled between processes whose environments may hold other
versions of every package, and engines must import without Ray and without FastAPI.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Task(StrEnum):
    """What a model is for. One deployment class each."""

    CHAT = "chat"
    """Text generation: chat, completions, edits, tokenize."""
    EMBEDDING = "embedding"
    RERANK = "rerank"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    SOUND = "sound"
    IMAGE = "image"
    VAD = "vad"


FinishReason = Literal["stop", "length", "tool_calls"]
"""Why an answer ends. Engines say `stop` or `length`; `tool_calls`: the message calls tools."""

Progress = Callable[[float], None]
"""Called by a loading engine with the fraction done, 0 to 1, from any thread."""


# ---- engine: tokens in, tokens out -----------------------------------------------------------------------------------


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
        """Gauges: slots, slots_busy, queued, kv_cells, kv_cells_used, … `slots_busy` 0 and `queued` 0: idle."""
        ...

    def close(self) -> None:
        """Stop the engine's thread and free its memory. Running requests get EngineError. Idempotent."""
        ...


# ---- engine: encoders ------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tokens:
    """One input of an encoder, its special tokens included."""

    ids: list[int]
    second: int = 0
    """Where the second text of a pair begins; 0: there is none."""
    full_length: int = 0
    """Tokens before it was truncated; 0: it was not."""


class Encoder(Protocol):
    """A loaded encoder: token ids in, one row of floats per input out. The batcher decides what runs together."""

    max_length: int
    """Tokens of one input, special tokens included."""
    width: int
    """Floats per row: the embedding's dimension, or 1 for a score."""
    batch_tokens: int
    """Tokens, padding included, with which one batch keeps the hardware full. A longer input is a batch alone."""
    parallel_batches: int
    """Batches that may run at once: 1 on a CPU, 2 where a GPU should never wait for the next one."""

    def encode(self, batch: Sequence[Tokens]) -> "NDArray[np.float32]":
        """Rows [inputs, width], in the order of the batch. Blocking; called from `parallel_batches` threads at most.

        Raises EngineError.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Gauges of the engine alone; `failed` 1: it is broken for good."""
        ...

    def close(self) -> None: ...


class Embedder(Encoder, Protocol):
    """Embeds texts. Rows are as the model's own files say: pooled, and normalised where they say so."""

    def tokenize(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool) -> list[Tokens]:
        """Texts, or ids of this model's tokenizer without special tokens. Blocking, thread-safe.

        Raises InvalidRequest for an id that is none, ContextLengthExceeded with both numbers for an input that is
        longer than `max_length` and must not be truncated; both name the input's index.
        """
        ...


class Reranker(Encoder, Protocol):
    """Scores documents against a query. A cross-encoder reads both together."""

    cross_encoder: bool
    """False: it is an Embedder instead, and a score is the cosine of the query's row and the document's."""

    def tokenize_pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[Tokens]:
        """Each document after the query, the document truncated. Blocking, thread-safe. Raises as `tokenize`."""
        ...


# ---- engine: audio ---------------------------------------------------------------------------------------------------


class Voice(Protocol):
    """A loaded speech synthesiser."""

    sample_rate: int
    """Hz."""
    voices: Sequence[str]
    """Names of its voices or speakers; empty: it has one."""
    languages: Sequence[str]
    """Codes of the languages it can be asked for; empty: it has one."""
    parallel: int
    """Sentences that may be synthesised at once, in so many threads."""

    def synthesize(self, text: str, *, voice: str | None, language: str | None, speed: float) -> "NDArray[np.float32]":
        """One sentence or a few, as mono samples from -1 to 1. Blocking.

        `speed` 2 is twice as fast. Raises InvalidRequest for a voice or language that it doesn't have, naming those
        that it has, and EngineError.
        """
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class Composer(Protocol):
    """A loaded generator of music and sounds."""

    sample_rate: int
    max_seconds: float

    def compose(
        self,
        text: str,
        *,
        seconds: float,
        guidance: float | None,
        do_sample: bool | None,
        seed: int | None,
        stopped: Callable[[], bool],
    ) -> "NDArray[np.float32]":
        """Samples [channels, length]. Blocking; ends early when `stopped()` says so. None: the model's own value."""
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class Transcriber(Protocol):
    """Turns speech into text."""

    sample_rate: int
    """Hz."""
    parallel: int
    """Files that may be transcribed at once, in so many threads."""
    max_seconds: float
    """Of one file."""

    def transcribe(
        self, audio: "Iterator[NDArray[np.float32]]", request: "TranscriptionRequest", stopped: Callable[[], bool]
    ) -> "Iterator[SegmentGroup]":
        """Segments of a file, whose mono samples of `sample_rate` come in blocks. Blocking; ends early when
        `stopped()` says so.

        Raises InvalidRequest for a language that the model doesn't know, EngineError, and what reading `audio` raises.
        """
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


class VoiceActivityDetector(Protocol):
    """Finds speech."""

    sample_rate: int

    def detect(self, samples: "NDArray[np.float32]") -> "list[SpeechSpan]":
        """Where somebody speaks in mono samples of `sample_rate`. Blocking, thread-safe."""
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


# ---- engine: images --------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Picture:
    """One image to paint."""

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    steps: int
    guidance: float
    image: "NDArray[np.uint8] | None" = None
    """RGB, [height, width, 3]: what is changed. None: text to image."""
    mask: "NDArray[np.uint8] | None" = None
    """[height, width], 255 where `image` may be changed: inpainting."""
    strength: float | None = None
    """How far from `image` the result may be, 0 to 1."""
    options: dict[str, Any] = field(default_factory=dict)
    """Further arguments of the pipeline's call."""

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for pictures that can be denoised as one batch."""
        fixed = self.width, self.height, self.steps, self.guidance, self.strength, repr(sorted(self.options.items()))
        return (*fixed, self.image is not None, self.mask is not None, bool(self.negative_prompt))


class Painter(Protocol):
    """A loaded image pipeline."""

    default_width: int
    default_height: int
    default_steps: int
    default_guidance: float
    multiple: int
    """Width and height must be multiples of it."""
    paints_over: bool
    """It can start from an image; `inpaints`: and change a part of one."""
    inpaints: bool
    previews: bool
    """It can show a picture as it stands."""
    batch: int
    """Pictures of the default size that may be denoised together."""

    def paint(
        self,
        batch: Sequence[Picture],
        *,
        step: "Callable[[int, int, Callable[[int], NDArray[np.uint8]]], Sequence[bool]]",
    ) -> "list[NDArray[np.uint8] | None]":
        """RGB images [height, width, 3], in the order of the batch, whose pictures are of one `group`. Blocking.

        `step(done, steps, preview)` is called after each step and says for each picture whether it is still wanted:
        when none is, painting ends and all are None. `preview(i)` decodes picture i as it stands. A picture's seed
        alone decides its noise, whatever it is batched with. Raises EngineError, InvalidRequest.
        """
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


# ---- handle: what ingress and replica say to each other --------------------------------------------------------------


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


@dataclass(slots=True, kw_only=True)
class EmbedRequest:
    """Texts, or token ids, to embed."""

    inputs: list[str | bytes]
    """Texts, or ids of the model's tokenizer as int32 in the machine's byte order: millions of them cross at once."""
    dimensions: int | None = None
    """Cut each vector to so many and normalise it again. None: the model's own."""
    truncate: bool | None = None
    """Cut inputs that are too long; False: refuse them. None: as the model's config says."""
    tenant: str = ""


@dataclass(slots=True)
class Vectors:
    """Consecutive rows of an answer, as one array."""

    data: bytes
    """float32, little-endian, row after row."""
    width: int
    prompt_tokens: int = 0
    """Tokens that were embedded, special tokens included, of these rows."""
    truncated: int = 0
    """How many of these inputs were cut."""


@dataclass(slots=True, kw_only=True)
class RerankRequest:
    query: str
    documents: list[str]
    truncate: bool | None = None
    """As of EmbedRequest."""
    tenant: str = ""


@dataclass(slots=True)
class Scores:
    """One score per document, in the order of the documents; the higher the more relevant."""

    scores: list[float]
    prompt_tokens: int = 0
    truncated: int = 0


@dataclass(slots=True, kw_only=True)
class TranscriptionRequest:
    """Speech to text. None: as the model's config says, or its engine's default."""

    audio: "NDArray[np.uint8]"
    """The file's bytes, of any format that FFmpeg reads; an array, so that it crosses without being copied."""
    translate: bool = False
    """Into English."""
    language: str | None = None
    """ISO 639-1 code; None: detected."""
    prompt: str | None = None
    temperature: float | None = None
    """0: greedy, with the engine's fallback to higher ones when that goes wrong."""
    word_timestamps: bool = False
    segment_timestamps: bool = True
    """False: the text alone counts, and a segment may be half a minute long. In long files that is quicker."""
    tenant: str = ""
    request_id: str = ""


@dataclass(slots=True)
class Word:
    """Times in seconds."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(slots=True)
class Segment:
    """A piece of a transcription; OpenAI's fields. Times in seconds."""

    id: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    seek: int = 0
    words: list[Word] = field(default_factory=list)


@dataclass(slots=True)
class SegmentGroup:
    """Segments that were ready together. The first group, which may be empty, says language and duration."""

    segments: list[Segment]
    language: str | None = None
    duration: float | None = None
    """Seconds of audio; None until it is known, on the last group at the latest."""


@dataclass(slots=True)
class Transcription:
    """The stream of segments, collected."""

    language: str
    duration: float
    segments: list[Segment]


@dataclass(slots=True, kw_only=True)
class SpeechRequest:
    """Text to speech. None: as the model's config says."""

    text: str
    voice: str | None = None
    language: str | None = None
    speed: float = 1.0
    format: str = "wav"
    """A row of `deployments.audio_formats.FORMATS`."""
    tenant: str = ""
    request_id: str = ""


@dataclass(slots=True)
class AudioChunk:
    """Encoded audio, as much as was ready; the chunks one after another are the file."""

    data: bytes


@dataclass(slots=True, kw_only=True)
class SoundRequest:
    """Text to music or sound. None: as the model's own files say."""

    text: str
    seconds: float | None = None
    guidance: float | None = None
    do_sample: bool | None = None
    seed: int | None = None
    format: str = "wav"
    tenant: str = ""


@dataclass(slots=True, kw_only=True)
class VadRequest:
    audio: "NDArray[np.float32]"
    """Mono samples from -1 to 1."""
    sample_rate: int = 16_000
    tenant: str = ""


@dataclass(slots=True)
class SpeechSpan:
    """Times in seconds."""

    start: float
    end: float


@dataclass(slots=True, kw_only=True)
class ImageRequest:
    """Text, or an image and text, to images. None: as the model's config says."""

    prompt: str
    negative_prompt: str | None = None
    n: int = 1
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    """Image i gets seed + i. None: a random one."""
    image: bytes | None = None
    """An encoded image to start from."""
    mask: bytes | None = None
    """An encoded image, transparent or white where `image` may be changed (`mask_is_alpha` says which)."""
    mask_is_alpha: bool = True
    strength: float | None = None
    format: Literal["png", "webp", "jpeg"] = "png"
    compression: int | None = None
    """0 to 100, of webp and jpeg: 100 is the best picture."""
    partial_images: int = 0
    """Previews per image that the stream should carry."""
    max_work: int = 0
    """Pixels × steps × n that the server allows, the model's own size and steps included; 0: no limit."""
    tenant: str = ""
    request_id: str = ""


@dataclass(slots=True)
class ImageEvent:
    """What there is to tell of the images being painted."""

    step: int
    """Denoising steps done, of all images of the request together."""
    steps: int
    partials: dict[int, bytes] = field(default_factory=dict)
    """Index of an image → its encoded preview."""
    finished: dict[int, bytes] = field(default_factory=dict)
    """Index of an image → the encoded image."""


@dataclass(slots=True)
class ImageResult:
    """Encoded images in order, and what they were painted with."""

    images: list[bytes]
    width: int
    height: int
    seed: int
    """Of the first."""


@dataclass(slots=True)
class ModelCard:
    """What the ingress knows of an installed model."""

    name: str
    tasks: list[Task]
    created: int
    """Unix seconds: when its file was written."""
    backend: str
    disabled: bool = False
    alias_of: str | None = None
    """Requests for this name go to that model."""
    loose: bool = False
    """A bare weights file without a config."""
    scoring: str = ""
    """Of a model that reranks: `cross-encoder`, or `cosine` similarity of a bi-encoder's embeddings."""
