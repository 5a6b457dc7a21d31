"""Sound generation: ElevenLabs' request, and the replica's form of it."""

from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema

from api.schemas.common import LARGEST_SEED, Integer, WireModel
from api.schemas.ignored import report_ignored
from api.schemas.speech import Name
from deployments.backends.base import SoundRequest


def _described(value: str) -> str:
    if not value.strip():
        raise ValueError("expected a description of the sound, but there is none")
    return value


class SoundGenerationParams(WireModel):
    text: Annotated[str, AfterValidator(_described), WithJsonSchema({"type": "string", "minLength": 1})]
    """What it shall sound like."""
    model_id: Name = None
    """Left out: the first model that can do it."""
    duration_seconds: Annotated[float | None, Field(gt=0)] = None
    """Left out: as the model's own files say."""
    prompt_influence: Annotated[float | None, Field(ge=0)] = None
    """How closely to follow the text: the guidance scale. Left out: as the model's own files say."""

    # LocalAI's
    model: Name = None
    do_sample: bool | None = None
    """False: the same every time."""

    # Ours
    seed: Annotated[Integer | None, Field(ge=-(2**63), le=LARGEST_SEED)] = None
    """Negative: a random one."""


def to_sound_request(wire: SoundGenerationParams, *, format: str | None, tenant: str) -> SoundRequest:  # noqa: A002
    """The replica's form of a request."""
    report_ignored(wire.model_extra or ())
    return SoundRequest(
        text=wire.text,
        seconds=wire.duration_seconds,
        guidance=wire.prompt_influence,
        do_sample=wire.do_sample,
        seed=None if wire.seed is None or wire.seed < 0 else wire.seed,
        format=format or "wav",
        tenant=tenant,
    )
