"""A generating model from a directory in Hugging Face's layout: which class, where it runs, in which precision."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from deployments.backends.model_directory import find_directory, read_config
from deployments.backends.options import read_options
from deployments.backends.torch_device import Placement, place
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid, ModelLoadFailed

log = logging.getLogger("manta.transformers")

TYPES: Mapping[str, Any] = {
    "AutoModelForCausalLM": AutoModelForCausalLM,
    "AutoModelForImageTextToText": AutoModelForImageTextToText,
}
"""LocalAI's `type`s of models that this engine runs. Unset: as the model's config.json says."""
QUANTIZATIONS: Mapping[str, Mapping[str, Any]] = {
    "bnb_8bit": {"load_in_8bit": True},
    "bnb_4bit": {
        "load_in_4bit": True,
        "bnb_4bit_quant_type": "nf4",
        "bnb_4bit_use_double_quant": True,
        "bnb_4bit_compute_dtype": torch.bfloat16,
    },
}
"""LocalAI's `quantization`s, done while the weights are loaded, by bitsandbytes. Stored ones need no setting."""

OPTIONS: Mapping[str, Any] = {"allow_pickles": bool}

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in memory, and what turns text and pictures into its inputs."""

    model: Any
    tokenizer: Any
    processor: Any
    """None: it reads text only."""
    placement: Placement


def load_model(config: ModelConfig, models_path: Path) -> LoadedModel:
    """Blocking; nothing comes from the network. Raises ConfigInvalid, ModelLoadFailed in the library's own words."""
    options = read_options(config, OPTIONS)
    allow_pickles = options.get("allow_pickles", False)
    directory = find_directory(config, models_path, allow_pickles=allow_pickles)
    if config.lora_adapter or config.lora_adapters:
        raise ConfigInvalid(
            f"{config.name}: the transformers backend applies no lora_adapter: merge it into the weights, or set "
            "backend to vllm"
        )
    kind = _type(config, directory)
    quantized = _quantization(config)
    placement = place(config)
    shared = {"local_files_only": True, "trust_remote_code": bool(config.trust_remote_code)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, **shared)
        model = TYPES[kind].from_pretrained(
            directory,
            dtype=placement.dtype,
            device_map={"": placement.device},
            use_safetensors=None if allow_pickles else True,
            **quantized,
            **shared,
        )
        processor: Any = AutoProcessor
        processor = None if kind == "AutoModelForCausalLM" else processor.from_pretrained(directory, **shared)
    except Exception as error:
        hint = "" if find_spec("torchvision") else " (torchvision, which some processors need, is not installed)"
        raise ModelLoadFailed(f"{config.name}: transformers could not load {directory}: {error}{hint}") from error
    _check(config, model)
    return LoadedModel(model.eval(), tokenizer, _with_images(config, processor), placement)


def _type(config: ModelConfig, directory: Path) -> str:
    if config.type:
        known = {name.lower(): name for name in TYPES}
        if config.type.lower() not in known:
            raise ConfigInvalid(f"{config.name}: type is {config.type!r}; this backend runs {', '.join(TYPES)}")
        return known[config.type.lower()]
    files = read_config(directory)
    with_images = {*MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.values()}
    reads_images = not with_images.isdisjoint(files.get("architectures") or [])
    if reads_images or "AutoModelForImageTextToText" in (files.get("auto_map") or {}):
        return "AutoModelForImageTextToText"
    return "AutoModelForCausalLM"


def _quantization(config: ModelConfig) -> dict[str, Any]:
    if not config.quantization:
        return {}
    if config.quantization not in QUANTIZATIONS:
        known = ", ".join(QUANTIZATIONS)
        raise ConfigInvalid(f"{config.name}: quantization is {config.quantization!r}; this backend has {known}")
    quantizer: Any = transformers.BitsAndBytesConfig
    return {"quantization_config": quantizer(**QUANTIZATIONS[config.quantization])}


def _check(config: ModelConfig, model: Any) -> None:
    """Raises ModelLoadFailed for a model that this engine can't step."""
    if model.config.is_encoder_decoder:
        raise ModelLoadFailed(f"{config.name}: {type(model).__name__} has an encoder: it is no decoder-only model")
    if not model.can_generate() or not model._supports_default_dynamic_cache():  # noqa: SLF001 – nothing public tells
        raise ModelLoadFailed(f"{config.name}: {type(model).__name__} keeps no cache of what it has read")


def _with_images(config: ModelConfig, processor: Any) -> Any:
    if processor is None or getattr(processor, "image_processor", None) is not None:
        return processor
    log.warning("model %s has no processor for images in its directory: it reads text only", config.name)
    return None
