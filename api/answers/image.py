"""The answer to an image request: as a whole, with links or with the images in it, and as events."""

import time
import uuid
from base64 import b64encode
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Literal

import orjson

from api.schemas.image import ImageOptions
from api.sse import EventStream
from deployments.backends.base import ImageEvent, ImageResult

Kind = Literal["image_generation", "image_edit"]
"""What OpenAI's events of a route are called, before the dot."""

Keep = Callable[[bytes], Awaitable[str]]
"""Keeps an encoded image and says its URL."""

USAGE = {
    "input_tokens": 0,
    "output_tokens": 0,
    "total_tokens": 0,
    "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
    "output_tokens_details": {"text_tokens": 0, "image_tokens": 0},
    "prompt_tokens": 0,
    "completion_tokens": 0,
}

_QUALITIES = {"standard": "medium", "hd": "high"}
"""Words of OpenAI's retired models → those that its events know."""


class ImageEvents(EventStream):
    """Ends with the last image, as OpenAI's streams of images do."""

    last = b""


async def images_answer(wire: ImageOptions, results: Sequence[ImageResult], keep: Keep) -> dict[str, Any]:
    """The object for all images, in the order of the prompts. `keep` is asked unless the client wants base64."""
    images = [(data, result.seed + i) for result in results for i, data in enumerate(result.images)]
    as_base64 = wire.response_format == "b64_json"
    data: list[dict[str, Any]] = []
    for index, (image, seed) in enumerate(images):
        content = {"b64_json": b64encode(image).decode()} if as_base64 else {"url": await keep(image)}
        data.append({"index": index, **content, "seed": seed})
    return {
        "created": int(time.time()),
        "id": str(uuid.uuid4()),
        "data": data,
        "background": "opaque",
        "output_format": wire.output_format or "png",
        "size": f"{results[0].width}x{results[0].height}",
        "usage": USAGE,
    }


class ImageEventWriter:
    """Writes the events of one stream: OpenAI's, with the image's `index`, and comments that tell the step."""

    def __init__(self, kind: Kind, wire: ImageOptions) -> None:
        self._kind = kind
        quality = wire.quality or "auto"
        self._said = {
            "size": wire.size or "auto",
            "quality": "auto" if quality.isdigit() else _QUALITIES.get(quality, quality),
            "background": wire.background or "auto",
            "output_format": wire.output_format or "png",
        }
        self._partials: Counter[int] = Counter()

    def __call__(self, item: tuple[int, ImageEvent]) -> bytes:
        """`item`: how many images came in the prompts before, and what there is to tell."""
        return b"".join(self._pieces(*item))

    def _pieces(self, before: int, event: ImageEvent) -> Iterator[bytes]:
        for place, image in sorted(event.partials.items()):
            index = before + place
            yield self._event("partial_image", image, {"partial_image_index": self._partials[index], "index": index})
            self._partials[index] += 1
        for place, image in sorted(event.finished.items()):
            yield self._event("completed", image, {"index": before + place, "usage": USAGE})
        if not event.partials and not event.finished:
            yield b": step %d of %d\n\n" % (event.step, event.steps)

    def _event(self, name: str, image: bytes, more: dict[str, Any]) -> bytes:
        kind = f"{self._kind}.{name}"
        data = {"type": kind, "b64_json": b64encode(image).decode(), "created_at": int(time.time()), **self._said}
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(data | more))
