"""A diffusion pipeline from its files to its device: class, weights, scheduler, adapters, memory savings."""

import importlib.util
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file import FromSingleFileMixin
from diffusers.pipelines.auto_pipeline import (
    AutoPipelineForImage2Image,
    AutoPipelineForInpainting,
    AutoPipelineForText2Image,
)

from deployments.backends.base import Progress
from deployments.backends.diffusion_files import SAFE, ModelFiles, find_files
from deployments.backends.diffusion_schedulers import set_scheduler
from deployments.backends.lora import lora_files
from deployments.backends.torch_device import Placement, place
from deployments.config import ModelConfig
from deployments.errors import BackendNotInstalled, ConfigInvalid, MantaError, ModelLoadFailed
from deployments.image_options import ImageOptions

AS_THE_FILES_SAY = (None, "", "AutoPipelineForText2Image", "DiffusionPipeline", "StableDiffusionImg2ImgPipeline")
"""`pipeline_type`s that leave the class to the model's index: every way of its weights is offered in any case."""
KNOWN = (
    "AutoPipelineForText2Image",
    "StableDiffusionPipeline",
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionXLPipeline",
    "StableDiffusion3Pipeline",
    "FluxPipeline",
)
"""LocalAI's `pipeline_type`s; any other pipeline class of diffusers may be named too."""
REFUSED = {
    "StableVideoDiffusionPipeline": "makes videos",
    "VideoDiffusionPipeline": "makes videos",
    "FluxTransformer2DModel": "is a part of a pipeline: name FluxPipeline, and a directory that holds all its parts",
}
WAYS: Mapping[str, Any] = {
    "text": AutoPipelineForText2Image,
    "image": AutoPipelineForImage2Image,
    "inpaint": AutoPipelineForInpainting,
}
"""What a picture starts from → who knows the class for it that belongs to another class."""
INPAINTING_CHANNELS = 9
"""Of a UNet that reads latents, a mask and the masked image's latents: it can do nothing else."""

diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class LoadedPipeline:
    """The same weights in every way in which they can paint."""

    pipeline: Any
    """The one that was loaded."""
    ways: Mapping[str, Any]
    """Keys of WAYS → it, or one of its kin, which share its modules; those that the model can't do are missing."""
    placement: Placement
    offloaded: bool = False
    """Modules come to the GPU when they run, and are sent back after it."""


@dataclass(slots=True)
class _Loading:
    """What the steps of loading need to know."""

    config: ModelConfig
    models_path: Path
    options: ImageOptions
    placement: Placement = field(init=False)

    def __post_init__(self) -> None:
        self.placement = place(self.config)


def load_pipeline(config: ModelConfig, models_path: Path, progress: Progress) -> LoadedPipeline:
    """Blocking; nothing comes from the network. Raises ConfigInvalid, BackendNotInstalled, and ModelLoadFailed."""
    loading = _Loading(config, models_path, ImageOptions.of(config))
    files = find_files(config, models_path, allow_pickles=loading.options.allow_pickles)
    cls = _pipeline_class(config, files)
    try:
        pipeline = _open(loading, cls, files)
        progress(0.6)
        if config.diffusers.control_net:
            pipeline = _with_control_net(loading, pipeline)
        if config.diffusers.scheduler_type:
            set_scheduler(pipeline, config.diffusers.scheduler_type)
        _add_adapters(loading, pipeline)
        _mend_clip_skip(pipeline)
        offloaded = _to_device(loading, pipeline)
        progress(0.9)
        loaded = LoadedPipeline(pipeline, _ways(pipeline), loading.placement, offloaded)
    except MantaError:
        raise
    except Exception as error:  # told in the library's own words
        raise ModelLoadFailed(
            f"{config.name}: diffusers could not load {files.checkpoint or files.directory}: {error}"
        ) from error
    if config.diffusers.img2img and "image" not in loaded.ways:
        raise ConfigInvalid(f"{config.name}: diffusers.img2img is true, but {cls.__name__} has no image to image")
    return loaded


def _pipeline_class(config: ModelConfig, files: ModelFiles) -> type[Any]:
    """As `pipeline_type` or the model's index says."""
    wanted = config.diffusers.pipeline_type
    name = files.pipeline_class or "StableDiffusionPipeline" if wanted in AS_THE_FILES_SAY else wanted
    assert name is not None
    if name in REFUSED:
        raise ConfigInvalid(f"{config.name}: diffusers.pipeline_type: {name} {REFUSED[name]}")
    cls = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise ConfigInvalid(
            f"{config.name}: diffusers.pipeline_type: diffusers {diffusers.__version__} has no pipeline {name!r}; "
            f"well-known are: {', '.join(KNOWN)}"
        )
    return cls


def _open(loading: _Loading, cls: type[Any], files: ModelFiles) -> Any:
    """A pipeline with its weights, in main memory."""
    dtype = _dtype(loading.placement, cls)
    if files.checkpoint is None:
        return cls.from_pretrained(
            files.directory,
            dtype=dtype,
            variant=files.variant,
            use_safetensors=None if loading.options.allow_pickles else True,
            trust_remote_code=bool(loading.config.trust_remote_code),
            local_files_only=True,
        )
    if not issubclass(cls, FromSingleFileMixin):
        raise ModelLoadFailed(f"{loading.config.name}: {cls.__name__} is loaded from a directory, not from one file")
    # Without one of these two diffusers asks the hub for them, whatever `local_files_only` says.
    described = (
        {"original_config": str(files.original_config)} if files.original_config else {"config": str(files.directory)}
    )
    return cls.from_single_file(str(files.checkpoint), dtype=dtype, local_files_only=True, **described)


def _dtype(placement: Placement, cls: type[Any]) -> torch.dtype:
    """`auto`: diffusion transformers are published in bfloat16, UNets in float32."""
    if isinstance(placement.dtype, torch.dtype):
        return placement.dtype
    return torch.bfloat16 if "transformer" in inspect.signature(cls.__init__).parameters else torch.float32


def _with_control_net(loading: _Loading, pipeline: Any) -> Any:
    """The pipeline's class that is steered by an image through a ControlNet."""
    directory = loading.models_path / str(loading.config.diffusers.control_net)
    if not directory.is_dir():
        raise ModelLoadFailed(f"{loading.config.name}: diffusers.control_net: there is no directory {directory}")
    control_net: Any = diffusers.ControlNetModel
    network = control_net.from_pretrained(
        directory,
        dtype=pipeline.dtype,
        use_safetensors=None if loading.options.allow_pickles else True,
        local_files_only=True,
    )
    return WAYS["text"].from_pipe(pipeline, controlnet=network)


def _add_adapters(loading: _Loading, pipeline: Any) -> None:
    """LoRA adapters, each with its scale, added into the weights: they cost nothing at run time."""
    adapters = lora_files(loading.config, loading.models_path)
    if not adapters:
        return
    if importlib.util.find_spec("peft") is None:
        raise BackendNotInstalled(
            f'{loading.config.name}: LoRA adapters need the Python package "peft", which is not installed here; '
            "run: make install-diffusers"
        )
    for path, scale in adapters:
        if not path.is_file():
            raise ModelLoadFailed(f"{loading.config.name}: there is no LoRA adapter {path}")
        if path.suffix != SAFE:
            raise ModelLoadFailed(f"{loading.config.name}: LoRA adapter {path.name} is not {SAFE}")
        pipeline.load_lora_weights(path.parent, weight_name=path.name, local_files_only=True)
        pipeline.fuse_lora(lora_scale=scale)
        pipeline.unload_lora_weights()


def _mend_clip_skip(pipeline: Any) -> None:
    """Let `clip_skip` find the text encoder's last norm: diffusers 0.42 looks where transformers 4 had it."""
    encoder = getattr(pipeline, "text_encoder", None)
    if hasattr(encoder, "final_layer_norm") and not hasattr(encoder, "text_model"):
        object.__setattr__(encoder, "text_model", encoder)  # past torch, which would make it a module of itself


def _to_device(loading: _Loading, pipeline: Any) -> bool:
    """Place it as the options say. Returns whether it is offloaded."""
    options, device = loading.options, loading.placement.device
    if options.attention_slicing:
        pipeline.enable_attention_slicing()
    if options.vae_slicing:
        pipeline.vae.enable_slicing()
    if options.vae_tiling:
        pipeline.vae.enable_tiling()
    offload = options.sequential_cpu_offload or options.cpu_offload
    if offload and device.type == "cpu":
        raise ConfigInvalid(f"{loading.config.name}: options: CPU offload is for models on a GPU; num_gpus is 0")
    if options.sequential_cpu_offload:
        pipeline.enable_sequential_cpu_offload(device=device)
    elif options.cpu_offload:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    return offload


def _ways(pipeline: Any) -> dict[str, Any]:
    """What the model can do → the pipeline itself or one of its kin."""
    if getattr(pipeline, "controlnet", None) is not None:
        return {"image": _quiet(pipeline)}  # the image steers it: without one it can't paint
    unet = getattr(pipeline, "unet", None)
    inpaints_alone = unet is not None and unet.config.in_channels == INPAINTING_CHANNELS
    ways: dict[str, Any] = {}
    for way, auto in WAYS.items():
        if inpaints_alone and way != "inpaint":
            continue
        try:
            kin = auto.from_pipe(pipeline)
        except ValueError:  # this class has no such kin
            continue
        ways[way] = _quiet(pipeline if type(kin) is type(pipeline) else kin)
    return ways or {_own_way(pipeline): _quiet(pipeline)}


def _own_way(pipeline: Any) -> str:
    """Of a class that has no kin, by what its call takes."""
    takes = inspect.signature(type(pipeline).__call__).parameters
    return "inpaint" if "mask_image" in takes else "image" if "image" in takes else "text"


def _quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
