"""Prompts with pictures, as the inputs of an image-text-to-text model of transformers."""

from collections.abc import Sequence
from typing import Any

import torch

from deployments.backends.base import Media
from deployments.errors import InvalidRequest, UnsupportedParameter
from deployments.image_codec import decode

NOT_INPUTS = frozenset(("input_ids", "attention_mask", "text_replacement_offsets"))
"""What a processor says of the prompt that the decoder says itself, or doesn't need."""


class PictureReader:
    """Thread-safe: processors only read their settings."""

    def __init__(self, processor: Any) -> None:
        self._processor: Any = processor
        self.chat_template: str | None = (
            processor.chat_template if isinstance(getattr(processor, "chat_template", None), str) else None
        )

    def read(self, prompt: str, media: Sequence[Media], *, add_bos: bool) -> tuple[list[int], dict[str, torch.Tensor]]:
        """Ids of a prompt whose chat template wrote a placeholder for each picture, and the model's other inputs.

        Blocking. Raises UnsupportedParameter for a sound, InvalidRequest for what is no picture, or where places and
        pictures don't match, at `messages`.
        """
        if any(one.kind != "image" for one in media):
            raise UnsupportedParameter("this model reads text and images only").at("messages")
        images = [decode(one.data, "messages").image for one in media]
        try:
            inputs = self._processor(text=[prompt], images=images, return_tensors="pt", add_special_tokens=add_bos)
        except (ValueError, IndexError, TypeError) as error:
            raise InvalidRequest(f"the model's processor refuses these images: {error}").at("messages") from error
        ids: list[int] = inputs["input_ids"][0].tolist()
        return ids, {name: value for name, value in inputs.items() if name not in NOT_INPUTS}
