"""Text to speech: OpenAI's route, LocalAI's and ElevenLabs'."""

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.responses import Response

from api.answers.audio import AudioStream, audio_events, audio_response
from api.call import Call, Caller, QueryModel
from api.json_body import JSONRoute
from api.schemas.speech import SpeechCreateParams, TextToSpeechParams, from_elevenlabs, to_speech_request
from api.sse import EVENTS, EventStream
from deployments.audio_formats import FORMATS
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Audio"])
localai_router = APIRouter(route_class=JSONRoute, tags=["Audio"])
elevenlabs_router = APIRouter(route_class=JSONRoute, tags=["Audio"])

FILE_NAME = "tts"
"""LocalAI's, without suffix."""

_BINARY = {"schema": {"type": "string", "format": "binary"}}
AUDIO: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The audio file",
        "content": {"audio/x-wav": _BINARY, **{row.media_type: _BINARY for row in FORMATS.values()}},
    }
}
"""OpenAPI's description of an answer that is an audio file."""

_SPOKEN: dict[int | str, dict[str, Any]] = {200: {**AUDIO[200], "content": AUDIO[200]["content"] | EVENTS}}

OutputFormat = Annotated[
    str | None, Query(description="ElevenLabs' name of a format, such as mp3_44100_128; wins over the body's.")
]


@router.post("/audio/speech", responses=_SPOKEN, response_class=Response)
async def create_speech(body: SpeechCreateParams, call: Caller, model: QueryModel = None) -> Response:
    """A text, spoken."""
    return await _speak(body, call, model)


@localai_router.post("/tts", responses=_SPOKEN, response_class=Response)
async def tts(body: SpeechCreateParams, call: Caller, model: QueryModel = None) -> Response:
    """The same under LocalAI's path."""
    return await _speak(body, call, model)


@elevenlabs_router.post("/v1/text-to-speech/{voice_id:path}", responses=_SPOKEN, response_class=Response)
async def text_to_speech(
    body: TextToSpeechParams,
    call: Caller,
    voice_id: str,
    model: QueryModel = None,
    output_format: OutputFormat = None,
) -> Response:
    """The same under ElevenLabs' path, with the voice in it."""
    return await _speak(from_elevenlabs(body, voice_id, output_format), call, model)


async def _speak(body: SpeechCreateParams, call: Call, model: str | None) -> Response:
    card = call.gateway.resolve(model or body.model, Task.SPEECH)
    request = to_speech_request(body, tenant=call.tenant, request_id=call.request_id)
    if not body.in_pieces:
        return audio_response(
            await call.result(card.name, "speak", request, large=True), FILE_NAME, body.response_format
        )
    chunks = call.gateway.stream(card.name, "stream_speak", request)
    if body.stream_format == "sse":
        return EventStream(audio_events(chunks), bytes, call.settings.keepalive)
    return AudioStream(chunks, FILE_NAME, body.response_format)
