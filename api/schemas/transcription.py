"""Transcriptions and translations: the form, and the objects that answer it."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.common import WireModel
from api.schemas.ignored import report_ignored
from api.uploads import Upload, parse_fields
from deployments.backends.base import TranscriptionRequest
from deployments.errors import InvalidRequest, UnsupportedParameter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TranscriptFormat = Literal["json", "text", "txt", "srt", "vtt", "verbose_json", "lrc"]
"""OpenAI's; `txt` (which is `text`) and `lrc` are LocalAI's."""

STREAMED: frozenset[TranscriptFormat] = frozenset(("json", "text", "txt"))
"""Formats of text alone, of which a stream of text is a piece."""

ANY_LANGUAGE = frozenset(("", "auto"))
"""What clients send for "find out": `auto` is whisper.cpp's."""


class TranscriptionCreateParams(WireModel):
    """All but the file. Values come as text."""

    model_config = ConfigDict(strict=False)

    model: str | None = None
    """Left out: the first model that can do it."""
    language: str | None = None
    """ISO 639-1. Left out: detected."""
    prompt: str | None = None
    """Text that comes before, or whose style is followed."""
    temperature: Annotated[float | None, Field(ge=0, le=1)] = None
    """0 and left out: greedy, and higher where that goes wrong."""
    response_format: TranscriptFormat = "json"
    timestamp_granularities: list[Literal["word", "segment"]] | None = None
    """What a `verbose_json` has times for. Left out: segments."""
    stream: bool | None = None

    # LocalAI's
    translate: bool | None = None
    """Into English."""


class TranscriptionUsage(BaseModel):
    type: Literal["duration"]
    seconds: float


class TranscriptionWord(BaseModel):
    word: str
    start: float
    end: float


class TranscriptionSegment(BaseModel):
    id: int
    seek: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float


class Transcription(BaseModel):
    text: str


class TranscriptionVerbose(BaseModel):
    """Times in seconds."""

    task: Literal["transcribe", "translate"]
    language: str
    """Its name in English."""
    duration: float
    text: str
    words: list[TranscriptionWord] | None = None
    segments: list[TranscriptionSegment] | None = None
    usage: TranscriptionUsage


def transcription_params(upload: Upload) -> TranscriptionCreateParams:
    """The form's fields. Raises for those that can't stand together."""
    params = parse_fields(TranscriptionCreateParams, upload.fields, lists=("timestamp_granularities",))
    report_ignored(params.model_extra or ())
    if params.timestamp_granularities and params.response_format != "verbose_json":
        raise InvalidRequest(
            f"'timestamp_granularities' needs 'response_format' verbose_json, not {params.response_format}."
        ).at("timestamp_granularities")
    if params.stream and params.response_format not in STREAMED:
        raise UnsupportedParameter(
            f"'stream' sends text: 'response_format' can't be {params.response_format} with it, only "
            f"{', '.join(sorted(STREAMED))}."
        ).at("response_format")
    return params


def to_transcription_request(
    params: TranscriptionCreateParams,
    audio: "NDArray[np.uint8]",
    *,
    translate: bool,
    tenant: str,
    request_id: str,
) -> TranscriptionRequest:
    """The replica's form of a request. `translate`: the route says so, whatever the form does."""
    language = (params.language or "").strip().lower()
    return TranscriptionRequest(
        audio=audio,
        translate=translate or bool(params.translate),
        language=None if language in ANY_LANGUAGE else language,
        prompt=params.prompt,
        temperature=params.temperature,
        word_timestamps="word" in (params.timestamp_granularities or ()),
        segment_timestamps=params.response_format not in STREAMED,
        tenant=tenant,
        request_id=request_id,
    )
