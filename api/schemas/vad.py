"""Voice activity: the request, and the object that answers it."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import Integer, WireModel
from api.schemas.ignored import report_ignored
from api.validation import kind
from deployments.backends.base import VadRequest
from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STEP = 2**15
"""Numbers that are converted in one step: a millisecond or two in which no other thread runs."""


def _samples(value: object) -> object:
    """Only that it is an array: a million numbers are looked at off the event loop."""
    if not isinstance(value, list):
        raise ValueError(f"expected an array of numbers, but got {kind(value)}")
    if not value:
        raise ValueError("expected samples, but the array is empty")
    return value


class VADParams(WireModel):
    model: str | None = None
    """Left out: the first model that can do it."""
    audio: Annotated[
        Any, BeforeValidator(_samples), WithJsonSchema({"type": "array", "items": {"type": "number"}, "minItems": 1})
    ]
    """Mono samples, from -1 to 1."""

    # Ours
    sample_rate: Annotated[Integer, Field(ge=1000, le=768_000)] = 16_000
    """Hz."""


class VADSegment(BaseModel):
    """Times in seconds."""

    start: float
    end: float


class VADResponse(BaseModel):
    segments: list[VADSegment]


async def to_vad_request(wire: VADParams, *, tenant: str) -> VadRequest:
    """The replica's form of a request. Raises InvalidRequest for what is no number."""
    report_ignored(wire.model_extra or ())
    audio = await asyncio.to_thread(_array, wire.audio)
    return VadRequest(audio=audio, sample_rate=wire.sample_rate, tenant=tenant)


def _array(values: list[Any]) -> "NDArray[np.float32]":
    import numpy as np  # with the first samples: whoever only reads these routes needs none

    samples = np.empty(len(values), np.float32)
    for start in range(0, len(values), STEP):
        part = values[start : start + STEP]
        if others := set(map(type, part)) - {float, int}:  # at C's speed
            found = next(value for value in part if type(value) in others)
            raise InvalidRequest(f"Invalid 'audio': expected numbers, but one is {kind(found)}.").at("audio")
        with np.errstate(over="ignore"):
            samples[start : start + STEP] = part
    if not np.isfinite(samples).all():
        raise InvalidRequest("Invalid 'audio': expected samples from -1 to 1, but one is beyond a float32.").at("audio")
    return samples
