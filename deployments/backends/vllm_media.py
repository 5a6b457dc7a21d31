"""Pictures and sounds of a prompt, as vLLM's processors want them. Imports no vLLM."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.backends.base import Media
from deployments.errors import InvalidRequest

AUDIO_RATE = 16_000
"""Hz. vLLM resamples to what the model wants."""


def multi_modal_data(media: Sequence[Media]) -> dict[str, list[Any]]:
    """Kind → decoded items, in the order of their places. Raises InvalidRequest for a file that can't be read."""
    decoded: dict[str, list[Any]] = {}
    for item in media:
        decoded.setdefault(item.kind, []).append(_DECODERS[item.kind](item.data))
    return decoded


def _image(data: bytes) -> Any:
    """A PIL image."""
    from deployments.image_codec import decode

    return decode(data, "messages").image


def _audio(data: bytes) -> Any:
    """Mono samples and their rate."""
    from deployments.audio_decoding import decode

    try:
        samples = np.concatenate(list(decode(np.frombuffer(data, np.uint8), AUDIO_RATE)))
    except InvalidRequest as error:
        raise error.at("messages") from error
    return samples, AUDIO_RATE


_DECODERS = {"image": _image, "audio": _audio}
