"""Text to music and sounds."""

from fastapi import APIRouter
from starlette.responses import Response

from api.answers.audio import audio_response
from api.call import Caller, QueryModel
from api.json_body import JSONRoute
from api.routes.speech import AUDIO, OutputFormat
from api.schemas.sound import SoundGenerationParams, to_sound_request
from api.schemas.speech import elevenlabs_format
from deployments.backends.base import Task

router = APIRouter(route_class=JSONRoute, tags=["Audio"])

FILE_NAME = "sound_generation"
"""LocalAI's, without suffix."""


@router.post("/v1/sound-generation", responses=AUDIO, response_class=Response)
async def sound_generation(
    body: SoundGenerationParams, call: Caller, model: QueryModel = None, output_format: OutputFormat = None
) -> Response:
    """A sound as the text describes it, as ElevenLabs answers."""
    format_ = elevenlabs_format(output_format)
    card = call.gateway.resolve(model or body.model_id or body.model, Task.SOUND)
    request = to_sound_request(body, format=format_, tenant=call.tenant)
    return audio_response(await call.result(card.name, "compose", request, large=True), FILE_NAME, format_)
