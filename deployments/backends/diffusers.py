"""The `diffusers` engine: pictures of one size denoised as a batch, each with noise of its own seed."""

import gc
import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from deployments.backends.base import Picture, Progress
from deployments.backends.diffusion_loading import LoadedPipeline, load_pipeline
from deployments.backends.diffusion_preview import decode_latents, has_plain_latents
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid, EngineError, InvalidRequest, MantaError, UnsupportedParameter

logger = logging.getLogger("manta.diffusers")

DEFAULT_STEPS = 15
"""LocalAI's, where neither config nor request says; fewer where the pipeline is made for fewer."""
CPU_BATCH = 8
"""A picture of the tiny pipeline of the tests in batches of 1, 2, 4, 8 and 16 takes 190, 128, 84, 77 and 72 ms of a
core; who comes meanwhile waits for the batch to end."""
GPU_BATCH = 8
GPU_BYTES_PER_PIXEL = 6000
"""What a picture of SDXL takes beside the weights, its decoding included, in half precision. Reckoned, not measured."""
ENABLEABLE = ("negative_prompt", "num_inference_steps", "clip_skip", "width", "height", "image", "guidance_scale")
"""LocalAI's `enable_parameters`. Size, image and guidance are passed in any case: a request asks for them by name."""
NEEDED_TO_OBEY = ("width", "height", "image", "guidance_scale")

Step = Callable[[int, int, Callable[[int], NDArray[np.uint8]]], Sequence[bool]]


class Diffusers:
    """Implements `base.Painter`."""

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "Diffusers":
        """Blocking. Raises as `load_pipeline`."""
        engine = cls(load_pipeline(config, models_path, progress), config)
        progress(1.0)
        return engine

    def __init__(self, loaded: LoadedPipeline, config: ModelConfig) -> None:
        self._loaded: LoadedPipeline | None = loaded
        self._constants = _constants(config)
        self._disabled = _disabled(config)
        self.default_width, self.default_height = _default_size(loaded.pipeline)
        self.default_steps = min(DEFAULT_STEPS, _default(loaded.pipeline, "num_inference_steps", DEFAULT_STEPS))
        self.default_guidance = _default(loaded.pipeline, "guidance_scale", 1.0)
        # Diffusion transformers take their latents in patches of 2 x 2.
        self.multiple = loaded.pipeline.vae_scale_factor * (2 if hasattr(loaded.pipeline, "transformer") else 1)
        self.paints_over = "image" in loaded.ways
        self.inpaints = "inpaint" in loaded.ways
        self.previews = has_plain_latents(loaded.pipeline)
        self.batch = config.parameters.batch or self._fitting_batch(loaded)

    def paint(self, batch: Sequence[Picture], *, step: Step) -> list[NDArray[np.uint8] | None]:
        if self._loaded is None:
            raise EngineError("the model was unloaded")
        way = _way(batch[0])
        if (pipeline := self._loaded.ways.get(way)) is None:
            raise UnsupportedParameter(_CANT[way]).at("prompt" if way == "text" else "image")
        arguments = self._arguments(pipeline, batch)

        def ended(pipe: Any, done: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            def preview(index: int) -> NDArray[np.uint8]:
                return decode_latents(pipe, tensors["latents"][index : index + 1])

            if not any(step(done + 1, pipe.num_timesteps, preview)):
                raise _Unwanted
            return tensors

        if "callback_on_step_end" in _takes(pipeline):
            arguments["callback_on_step_end"] = ended
        try:
            output = self._call(pipeline, arguments)
        except _Unwanted:
            return [None] * len(batch)
        finally:
            if self._loaded.offloaded:
                self._loaded.pipeline.maybe_free_model_hooks()
        if any(getattr(output, "nsfw_content_detected", None) or []):
            logger.warning("the model's safety checker blacked out a picture")
        return [np.rint(image * 255).astype(np.uint8) for image in output.images]

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._loaded = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _call(self, pipeline: Any, arguments: dict[str, Any]) -> Any:
        """The pipeline's output. What the library raises becomes EngineError."""
        try:
            return pipeline(**arguments, output_type="np")
        except (_Unwanted, MantaError):
            raise
        except torch.OutOfMemoryError as error:
            raise EngineError(f"out of GPU memory with {len(arguments['prompt'])} pictures at once: {error}") from error
        except Exception as error:
            raise EngineError(f"{type(error).__name__}: {error}") from error

    def _arguments(self, pipeline: Any, batch: Sequence[Picture]) -> dict[str, Any]:
        """Of the pipeline's call. What the pictures have in common is in any of them."""
        takes, first = _takes(pipeline), batch[0]
        # One generator for each picture, on the CPU: the same noise on every device and in every batch.
        given: dict[str, Any] = {
            "generator": [torch.Generator("cpu").manual_seed(picture.seed) for picture in batch],
            "width": first.width,
            "height": first.height,
            "num_inference_steps": first.steps,
            "guidance_scale": first.guidance,
            **self._constants,
        }
        if first.image is not None:
            given["image"] = [Image.fromarray(picture.image) for picture in batch if picture.image is not None]
        if first.mask is not None:
            given["mask_image"] = [Image.fromarray(picture.mask) for picture in batch if picture.mask is not None]
        arguments = {name: value for name, value in given.items() if name in takes and name not in self._disabled}
        arguments["prompt"] = [picture.prompt for picture in batch]
        if first.negative_prompt:
            _check_negative_prompt(pipeline, self._disabled)
            arguments["negative_prompt"] = [picture.negative_prompt for picture in batch]
        if first.image is not None:
            arguments |= _strength(pipeline, first)
        return arguments | first.options

    def _fitting_batch(self, loaded: LoadedPipeline) -> int:
        """Pictures of the model's own size for which there is room."""
        if loaded.placement.device.type == "cpu":
            return CPU_BATCH
        free, _total = torch.cuda.mem_get_info(loaded.placement.device)
        return max(1, min(GPU_BATCH, free // (GPU_BYTES_PER_PIXEL * self.default_width * self.default_height)))


class _Unwanted(Exception):
    """Ends a pipeline's call: nobody waits for its pictures."""


_CANT = {
    "text": "this model only changes images: send one",
    "image": "this model can't start from an image",
    "inpaint": "this model can't change a part of an image",
}


def _way(picture: Picture) -> str:
    return "inpaint" if picture.mask is not None else "image" if picture.image is not None else "text"


def _takes(pipeline: Any) -> Mapping[str, inspect.Parameter]:
    """Parameters of the pipeline's call."""
    return inspect.signature(type(pipeline).__call__).parameters


def _default(pipeline: Any, name: str, otherwise: Any) -> Any:
    """What the pipeline's call uses when it isn't told."""
    parameter = _takes(pipeline).get(name)
    return otherwise if parameter is None or parameter.default in (None, inspect.Parameter.empty) else parameter.default


def _constants(config: ModelConfig) -> dict[str, Any]:
    """Arguments that the config alone decides."""
    clip_skip = config.diffusers.clip_skip or config.parameters.clip_skip
    return {"clip_skip": clip_skip} if clip_skip else {}


def _disabled(config: ModelConfig) -> frozenset[str]:
    """Arguments that `enable_parameters` leaves out, for pipelines which they would break."""
    named = config.diffusers.enable_parameters
    if not named:
        return frozenset()
    enabled = {name.strip() for name in named.split(",")} - {"none", ""}
    if unknown := sorted(enabled.difference(ENABLEABLE)):
        raise ConfigInvalid(
            f"{config.name}: diffusers.enable_parameters: {', '.join(unknown)}: none such; known are "
            f"{', '.join(ENABLEABLE)} and none"
        )
    return frozenset(ENABLEABLE) - enabled - frozenset(NEEDED_TO_OBEY)


def _default_size(pipeline: Any) -> tuple[int, int]:
    """Width and height that the model was trained for, in pixels."""
    backbone: Any = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    latents = getattr(pipeline, "default_sample_size", None) or getattr(backbone.config, "sample_size", None) or 128
    height, width = latents if isinstance(latents, (list, tuple)) else (latents, latents)
    return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


def _check_negative_prompt(pipeline: Any, disabled: frozenset[str]) -> None:
    """A pipeline whose `true_cfg_scale` is off takes one and does nothing with it."""
    takes = _takes(pipeline)
    ignored = "true_cfg_scale" in takes and takes["true_cfg_scale"].default <= 1
    if "negative_prompt" not in takes or ignored or "negative_prompt" in disabled:
        raise UnsupportedParameter("this model takes no negative prompt").at("negative_prompt")


def _strength(pipeline: Any, picture: Picture) -> dict[str, float]:
    """The strength, where the request gives one, checked against the steps that it leaves."""
    parameter = _takes(pipeline).get("strength")
    if parameter is None:
        if picture.strength is not None:
            raise UnsupportedParameter("this model takes no strength").at("strength")
        return {}
    strength = parameter.default if picture.strength is None else picture.strength
    if int(picture.steps * strength) < 1:
        raise InvalidRequest(
            f"{picture.steps} steps at strength {strength:g} leave none to paint: at least {math.ceil(1 / strength)} "
            "are needed"
        ).at("step")
    return {} if picture.strength is None else {"strength": picture.strength}
