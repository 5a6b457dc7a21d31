"""What chat messages hold beside text: pictures and sounds, loaded, and their places in the messages."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from api.media import load_audio, load_image
from api.settings import Settings
from api.validation import kind, shown
from deployments.backends.base import ChatRequest, Media
from deployments.errors import InvalidRequest, UnsupportedParameter
from deployments.side_by_side import side_by_side

MOST_MEDIA = 16
"""Of one request."""
PARALLEL_LOADS = 4
"""Of one request: downloads are held in memory."""


@dataclass(frozen=True, slots=True)
class _MediaPart:
    """A type of content part that holds or names a file."""

    kind: Literal["image", "audio"]
    source: str
    """Where in the part's object the file is, as URL or base64. The object may be left out around it."""
    load: Callable[[str, str, Settings], Awaitable[bytes]]


TEXT_PARTS = ("text", "refusal")
"""Types of content parts that have their text in the field of the same name."""

MEDIA_PARTS: dict[str, _MediaPart] = {
    "image_url": _MediaPart("image", "url", load_image),
    "input_audio": _MediaPart("audio", "data", load_audio),
    "audio_url": _MediaPart("audio", "url", load_audio),  # LocalAI's
}
"""Types whose object is in the field of the same name. Its `detail` and `format` change nothing: files say theirs."""


@dataclass(frozen=True, slots=True)
class MediaFile:
    """A file that a part holds or names."""

    part: _MediaPart
    source: str
    param: str
    """The part's place in the request."""


def read_parts(request: ChatRequest) -> tuple[ChatRequest, list[MediaFile]]:
    """The request with its wire parts as ChatRequest describes them, and the files of its `media`, yet to be loaded.

    Raises UnsupportedParameter for parts of other types and InvalidRequest for wrong ones, naming the part.
    """
    files: list[MediaFile] = []
    messages = [
        _with_parts(message, f"messages[{index}].content", files) for index, message in enumerate(request.messages)
    ]
    if len(files) > MOST_MEDIA:
        raise InvalidRequest(f"This request has {len(files)} images and sounds; at most {MOST_MEDIA} are read.").at(
            files[MOST_MEDIA].param
        )
    return replace(request, messages=messages), files


async def load_media(files: Sequence[MediaFile], settings: Settings) -> list[Media]:
    """All files, a few at a time; together they may be as large as one image.

    Raises InvalidRequest for one that can't be fetched, is too large or is no image, naming its part.
    """
    limit = settings.image_limit_mb << 20
    total = 0

    async def load(file: MediaFile) -> Media:
        nonlocal total
        data = await file.part.load(file.source, file.param, settings)
        total += len(data)
        if total > limit:
            raise InvalidRequest(f"The images and sounds of a request may have {limit} bytes in all.").at(file.param)
        return Media(file.part.kind, data)

    return await side_by_side(load, files, PARALLEL_LOADS)


def _with_parts(message: dict[str, Any], param: str, files: list[MediaFile]) -> dict[str, Any]:
    content = message["content"]
    if not isinstance(content, list):
        return message
    return {**message, "content": [_read(part, f"{param}[{index}]", files) for index, part in enumerate(content)]}


def _read(part: object, param: str, files: list[MediaFile]) -> dict[str, Any]:
    """The part as ChatRequest describes it; the file that it has is added to `files`."""
    if not isinstance(part, Mapping):
        raise InvalidRequest(f"Invalid '{param}': expected an object, but got {kind(part)}.").at(param)
    name = part.get("type")
    if name in TEXT_PARTS:
        return {"type": "text", "text": _string(part.get(name), param, str(name))}
    if not isinstance(name, str) or name not in MEDIA_PARTS:
        raise UnsupportedParameter(
            f"Invalid '{param}': parts have a 'type' of {', '.join((*TEXT_PARTS, *MEDIA_PARTS))}, not {shown(name)}."
        ).at(param)
    media, value, field = MEDIA_PARTS[name], part.get(name), name
    if isinstance(value, Mapping):
        value, field = value.get(media.source), f"{name}.{media.source}"
    files.append(MediaFile(media, _string(value, param, field), param))
    return {"type": media.kind, "index": len(files) - 1}


def _string(value: object, param: str, field: str) -> str:
    if isinstance(value, str):
        return value
    raise InvalidRequest(f"Invalid '{param}': expected a string as '{field}', but got {kind(value)}.").at(param)
