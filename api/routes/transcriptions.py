"""Speech to text."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers.transcription import Asked, transcript_events, transcript_response
from api.call import Call, Caller, QueryModel
from api.gateway import LARGE
from api.schemas.transcription import (
    Transcription,
    TranscriptionCreateParams,
    TranscriptionVerbose,
    to_transcription_request,
    transcription_params,
)
from api.sse import EVENTS, EventStream
from api.uploads import form_schema, read_upload
from deployments.backends.base import Task

router = APIRouter(tags=["Audio"])

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "model": Transcription | TranscriptionVerbose,
        "content": {
            "text/plain": {"schema": {"type": "string", "description": "text, txt and lrc"}},
            "application/x-subrip": {"schema": {"type": "string"}},
            "text/vtt": {"schema": {"type": "string"}},
            **EVENTS,
        },
    }
}
_FORM = form_schema(TranscriptionCreateParams)


@router.post("/audio/transcriptions", responses=_ANSWER, openapi_extra=_FORM)
async def create_transcription(request: Request, call: Caller, model: QueryModel = None) -> Response:
    """What is said in an audio file, in the language it is said in."""
    return await _transcribe(request, call, model, translate=False)


@router.post("/audio/translations", responses=_ANSWER, openapi_extra=_FORM)
async def create_translation(request: Request, call: Caller, model: QueryModel = None) -> Response:
    """What is said in an audio file, in English."""
    return await _transcribe(request, call, model, translate=True)


async def _transcribe(request: Request, call: Call, model: str | None, *, translate: bool) -> Response:
    upload = await read_upload(request)
    params = transcription_params(upload)
    card = call.gateway.resolve(model or params.model, Task.TRANSCRIPTION)
    audio = to_transcription_request(
        params, upload.content, translate=translate, tenant=call.tenant, request_id=call.request_id
    )
    large = upload.content.nbytes >= LARGE
    if params.stream:
        groups = call.gateway.stream(card.name, "stream_transcribe", audio, large=large)
        return EventStream(transcript_events(groups), bytes, call.settings.keepalive)
    transcription = await call.result(card.name, "transcribe", audio, large=large)
    return transcript_response(transcription, Asked(params, audio.translate))
