"""`options:` of an image model's config: how its pipeline is run, and what a request may ask of it."""

from dataclasses import dataclass, fields
from typing import Self

from deployments.backends.options import read_options
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOptions:
    """Each field is an option, `name:value`."""

    allow_pickles: bool = False
    """Also load weights that are not safetensors, which can run code."""
    cpu_offload: bool = False
    """Keep on the GPU only the part of the pipeline that runs: slower, and room for larger ones."""
    sequential_cpu_offload: bool = False
    """Keep on the GPU only the layer that runs: very slow, and a few GB are enough."""
    attention_slicing: bool = False
    """Compute attention head by head: less memory, slower."""
    vae_slicing: bool = False
    """Decode the images of a batch one by one: less memory."""
    vae_tiling: bool = False
    """Decode an image tile by tile: less memory for large ones."""

    max_pixels: int | None = None
    """Width times height of a request."""
    max_steps: int = 1000
    """Denoising steps of a request; most schedulers were trained with a thousand."""
    max_images: int | None = None
    """Images of a request (`n`)."""
    max_work: int | None = None
    """Pixels times steps times images of a request."""

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Raises ConfigInvalid for a name that is none and a value of the wrong kind."""
        kinds = {field.name: bool if isinstance(field.default, bool) else int for field in fields(cls)}
        values = read_options(config, kinds)
        for name, value in values.items():
            if kinds[name] is int and value < 1:
                raise ConfigInvalid(f"{config.name}: options: {name} is {value}, and must be at least 1")
        return cls(**values)
