"""Speech: OpenAI's and LocalAI's request, ElevenLabs', and the replica's form of both."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import WireModel
from api.schemas.ignored import report_ignored
from deployments.audio_formats import FORMATS
from deployments.backends.base import SpeechRequest
from deployments.errors import InvalidRequest, UnsupportedParameter

SLOWEST, FASTEST = 0.25, 4.0

IN_PIECES = frozenset(("mp3", "opus", "aac", "pcm"))
"""Formats of which OpenAI sends what is ready, and so do we. The head of the others says how long they are: of those
one must ask for pieces."""


def _nothing(value: object) -> object:
    """LocalAI's clients send "" for what they leave out."""
    return None if value == "" else value


def _voice(value: object) -> object:
    """OpenAI's `{"id": …}`."""
    return value.get("id") if isinstance(value, dict) else _nothing(value)


def _format(value: str | None) -> str | None:
    if value is not None and value not in FORMATS:
        raise ValueError(f"expected one of {', '.join(FORMATS)}")
    return value


def _spoken(value: str) -> str:
    if not value.strip():
        raise ValueError("expected text to speak, but there is none")
    return value


Name = Annotated[str | None, BeforeValidator(_nothing)]
Format = Annotated[
    str | None,
    BeforeValidator(_nothing),
    AfterValidator(_format),
    WithJsonSchema({"type": "string", "enum": list(FORMATS)}),
]
Speed = Annotated[float | None, Field(ge=SLOWEST, le=FASTEST)]
SpokenText = Annotated[str, AfterValidator(_spoken), WithJsonSchema({"type": "string", "minLength": 1})]


class SpeechCreateParams(WireModel):
    model: Name = None
    """Left out: the first model that can do it."""
    input: SpokenText
    voice: Annotated[
        str | None,
        BeforeValidator(_voice),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "object", "properties": {"id": {"type": "string"}}}]}),
    ] = None
    """Left out: as the model's config says."""
    response_format: Format = None
    """Left out: a WAV, `audio/x-wav`."""
    speed: Speed = None
    stream_format: Literal["audio", "sse"] | None = None
    """How to send it as it is made: as the file, or its pieces in events."""

    # LocalAI's
    language: Name = None
    stream: bool | None = None
    """Send it as it is made. Left out: yes for mp3, opus, aac and pcm."""

    @property
    def in_pieces(self) -> bool:
        """The first audio is sent before the last is made."""
        return bool(self.stream_format) or (self.response_format in IN_PIECES if self.stream is None else self.stream)


class VoiceSettings(WireModel):
    """ElevenLabs'. The others are about its own models."""

    speed: Speed = None


class TextToSpeechParams(WireModel):
    """ElevenLabs' request, and LocalAI's with the voice in the path."""

    text: SpokenText | None = None
    model_id: Name = None
    """Left out: the first model that can do it."""
    language_code: Name = None
    voice_settings: VoiceSettings | None = None

    # LocalAI's
    input: SpokenText | None = None
    model: Name = None
    voice: Name = None
    """The path's is taken."""
    language: Name = None
    response_format: Format = None
    speed: Speed = None
    stream: bool | None = None


def from_elevenlabs(wire: TextToSpeechParams, voice: str, output_format: str | None) -> SpeechCreateParams:
    """The same request in OpenAI's words. Raises InvalidRequest without a text, UnsupportedParameter for a format."""
    report_ignored(wire.model_extra or ())
    text = wire.text or wire.input
    if text is None:
        raise InvalidRequest("Missing required parameter: 'text'.").at("text")
    settings = wire.voice_settings or VoiceSettings()
    report_ignored(settings.model_extra or ())
    return SpeechCreateParams(
        model=wire.model_id or wire.model,
        input=text,
        voice=voice,
        response_format=elevenlabs_format(output_format) or wire.response_format,
        speed=settings.speed if settings.speed is not None else wire.speed,
        language=wire.language_code or wire.language,
        stream=bool(wire.stream),  # left out: no, for ElevenLabs has another route for it
    )


def elevenlabs_format(output_format: str | None) -> str | None:
    """The format in `mp3_44100_128`. Rate and bit rate are the voice's, and the file says them.

    Raises UnsupportedParameter, also for bare samples of a given rate: they can't say theirs.
    """
    if not output_format:
        return None
    codec, _, rate = output_format.partition("_")
    if codec not in FORMATS or (codec == "pcm" and rate):
        raise UnsupportedParameter(
            f"Invalid value for 'output_format': '{output_format:.64}'. Supported are {', '.join(FORMATS)}; a rate "
            "behind it is not kept, and pcm may have none."
        ).at("output_format")
    return codec


def to_speech_request(wire: SpeechCreateParams, *, tenant: str, request_id: str) -> SpeechRequest:
    """The replica's form of a speech request."""
    report_ignored(wire.model_extra or ())
    return SpeechRequest(
        text=wire.input,
        voice=wire.voice,
        language=wire.language,
        speed=1.0 if wire.speed is None else wire.speed,
        format=wire.response_format or "wav",
        tenant=tenant,
        request_id=request_id,
    )
