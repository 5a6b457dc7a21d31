"""From a model's config to llama.cpp's parameters."""

import ctypes
from typing import Any

import llama_cpp
from llama_cpp import mtmd_cpp

from deployments.backends.llama_library import has_broken_tiles
from deployments.config import ModelConfig, default_threads
from deployments.errors import ConfigInvalid

DEFAULT_CONTEXT = 8192
"""Largest context that a model gets unasked."""
DEFAULT_BATCH = 512
DEFAULT_PICTURE_BATCH = 2048
"""Where a picture must lie in one batch: as many rows as projectors make of a large one."""
DEFAULT_SLOTS = 32
ENCODER_BATCH = 2048 if llama_cpp.llama_supports_gpu_offload() else 256
"""Tokens of an encoder's batch. In batches of 64, 256 and 512 tokens one core runs 3,423, 3,854 and 3,788 tokens/s of
MiniLM in float32, and 148, 155 and 154 of SmolLM2 in 4 bits. The figure for GPUs is reckoned."""
ENCODER_SEQUENCES = 64
"""Inputs of an encoder's batch."""

CACHE_TYPES = {
    name: getattr(llama_cpp, f"GGML_TYPE_{name.upper()}")
    for name in ("f32", "f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
} | {"bf16": 30}  # in ggml.h, not in llama-cpp-python
ROPE_SCALING = {
    "none": llama_cpp.LLAMA_ROPE_SCALING_TYPE_NONE,
    "linear": llama_cpp.LLAMA_ROPE_SCALING_TYPE_LINEAR,
    "yarn": llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN,
}
FLASH_ATTENTION = {
    True: llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    False: llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    None: llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
}
LOAD_MODES = {
    (True, True): llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK,
    (True, False): llama_cpp.LLAMA_LOAD_MODE_MMAP,
    (False, True): llama_cpp.LLAMA_LOAD_MODE_MLOCK,
    (False, False): llama_cpp.LLAMA_LOAD_MODE_NONE,
}
"""(mmap, mmlock) → how the weights get into memory."""

COPIED = ("yarn_ext_factor", "yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow")
"""Config fields that are context parameters of the same name."""


def model_params(config: ModelConfig) -> llama_cpp.llama_model_params:
    """How to load the weights."""
    params: llama_cpp.llama_model_params = llama_cpp.llama_model_default_params()
    params.load_mode = LOAD_MODES[config.mmap is not False, bool(config.mmlock)]
    params.n_gpu_layers = -1 if config.gpu_layers is None else config.gpu_layers
    params.use_extra_bufts = not has_broken_tiles()
    if config.main_gpu not in (None, ""):
        params.main_gpu = _number("main_gpu", config, config.main_gpu, int)
    if config.tensor_split:
        shares = [_number("tensor_split", config, share, float) for share in config.tensor_split.split(",")]
        params.tensor_split = (ctypes.c_float * llama_cpp.llama_max_devices())(*shares)
    return params


def context_params(
    config: ModelConfig, trained_context: int, *, whole_pictures: bool = False
) -> tuple[llama_cpp.llama_context_params, int]:
    """How to run the model, and the tokens that one request may use.

    `whole_pictures`: the model's projector wants all rows of a picture in one batch.
    """
    context_size = config.context_size or min(trained_context, DEFAULT_CONTEXT)
    cells = config.kv_cells or 4 * context_size
    if cells < context_size:
        raise ConfigInvalid(
            f"{config.name}: kv_cells ({cells}) is less than context_size ({context_size}): "
            "one request alone would not fit. Raise kv_cells or lower context_size."
        )
    slots = config.parallel or DEFAULT_SLOTS
    if slots > llama_cpp.llama_max_parallel_sequences():
        raise ConfigInvalid(f"{config.name}: parallel is {slots}; at most {llama_cpp.llama_max_parallel_sequences()}")
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = cells
    params.n_seq_max = slots
    # A step holds a token of every slot at least, and logits of one token per slot at most.
    batch = config.parameters.batch or (DEFAULT_PICTURE_BATCH if whole_pictures else DEFAULT_BATCH)
    params.n_batch = params.n_ubatch = max(batch, slots)
    params.n_outputs_max = slots
    params.swa_full = True  # else prefixes of sliding-window models could not be cut and shared
    _set_common(params, config)
    return params, context_size


def encoder_params(
    config: ModelConfig, trained_context: int, pooling: int
) -> tuple[llama_cpp.llama_context_params, int, int]:
    """How to run an encoder, the tokens that one input may have, and those of a batch."""
    max_length = min(trained_context, config.context_size or DEFAULT_CONTEXT)
    batch_tokens = config.parameters.batch or ENCODER_BATCH
    params = llama_cpp.llama_context_default_params()
    params.embeddings = True
    params.pooling_type = pooling
    # What is pooled, and what attends to both sides, must lie in one batch as a whole.
    params.n_ctx = params.n_batch = params.n_ubatch = max(max_length, batch_tokens)
    params.n_seq_max = ENCODER_SEQUENCES
    _set_common(params, config)
    return params, max_length, batch_tokens


def projector_params(config: ModelConfig, marker: str) -> mtmd_cpp.mtmd_context_params:
    """How to load and run the projector of a model that reads media. `marker`: stands for one in a prompt."""
    params: mtmd_cpp.mtmd_context_params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu = config.gpu_layers != 0
    params.n_threads = config.threads or default_threads()
    params.flash_attn_type = _choice("flash_attention", config, FLASH_ATTENTION)
    params.media_marker = marker.encode()
    params.print_timings = False
    return params


def _set_common(params: llama_cpp.llama_context_params, config: ModelConfig) -> None:
    params.n_threads = params.n_threads_batch = config.threads or default_threads()
    params.kv_unified = True
    params.flash_attn_type = _choice("flash_attention", config, FLASH_ATTENTION)
    params.offload_kqv = not config.no_kv_offloading
    params.no_perf = True
    if config.cache_type_k:
        params.type_k = _choice("cache_type_k", config, CACHE_TYPES)
    if config.cache_type_v:
        params.type_v = _choice("cache_type_v", config, CACHE_TYPES)
    if config.rope_scaling:
        params.rope_scaling_type = _choice("rope_scaling", config, ROPE_SCALING)
    params.rope_freq_base = config.parameters.rope_freq_base or 0.0
    params.rope_freq_scale = config.parameters.rope_freq_scale or 0.0
    for name in COPIED:
        if (value := getattr(config, name)) is not None:
            setattr(params, name, value)


def _choice(field: str, config: ModelConfig, choices: dict[Any, int]) -> int:
    value = getattr(config, field)
    if value not in choices:
        known = ", ".join(sorted(str(choice) for choice in choices if isinstance(choice, str)))
        raise ConfigInvalid(f"{config.name}: {field} is {value!r}; known are {known}")
    return choices[value]


def _number(field: str, config: ModelConfig, text: int | str | None, kind: type[int] | type[float]) -> Any:
    try:
        return kind(text or 0)
    except ValueError:
        raise ConfigInvalid(f"{config.name}: {field} must hold numbers, not {text!r}") from None
