"""From a model's config to vLLM's engine arguments, GPUs, environment. Imports no vLLM: the controller reads them."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.backends.lora import lora_files
from deployments.backends.model_directory import find_directory
from deployments.config import ModelConfig, default_threads
from deployments.errors import ConfigInvalid

ARGUMENTS: Mapping[str, str] = {
    "dtype": "dtype",
    "disable_log_stats": "disable_log_stats",
    "enforce_eager": "enforce_eager",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "limit_mm_per_prompt": "limit_mm_per_prompt",
    "load_format": "load_format",
    "max_model_len": "max_model_len",
    "parallel": "max_num_seqs",
    "quantization": "quantization",
    "tensor_parallel_size": "tensor_parallel_size",
    "trust_remote_code": "trust_remote_code",
}
"""Field of a model's config → argument of vLLM's AsyncEngineArgs. 0, LocalAI's "unset", is left out; so is None."""

OURS: Mapping[str, str] = {
    "model": "it is parameters.model",
    "served_model_name": "it is the config's name",
    "skip_tokenizer_init": "prompts are made from the tokenizer",
    "distributed_executor_backend": "it follows from the parallel sizes",
    "data_parallel_size": "use min_replicas and max_replicas",
    "enable_lora": "it follows from lora_adapter",
    "structured_outputs_config": "constraints are llguidance's",
}
"""Engine arguments that `engine_args` may not set → why."""

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM's `max_lora_rank` may be."""
WHOLE_GPU_SHARE = 0.9
"""Of a GPU's memory: vLLM's own default, of which a replica with a fraction of a GPU gets that fraction."""
CPU_KV_BYTES = 1 << 30
"""KV cache on a CPU, where vLLM would take nine tenths of the memory. 32,000 tokens of a model of half a billion
parameters, 8,000 of one of seven."""


@dataclass(frozen=True, slots=True)
class ParallelSizes:
    """How many GPUs one replica's model is spread over."""

    tensor: int = 1
    """GPUs that share every layer: of one node."""
    pipeline: int = 1
    """Stages, each of consecutive layers: of several nodes."""

    @property
    def gpus(self) -> int:
        return self.tensor * self.pipeline


def parallel_sizes(config: ModelConfig) -> ParallelSizes:
    """Read without vLLM, since Ray must set the GPUs aside first. Raises ConfigInvalid."""
    own = _engine_args(config)
    sizes = {key: own.get(key, 1) for key in ("tensor_parallel_size", "pipeline_parallel_size")}
    if "tensor_parallel_size" not in own:
        sizes["tensor_parallel_size"] = config.tensor_parallel_size or 1
    for key, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ConfigInvalid(f"{config.name}: {key} is {size!r}; expected a number of GPUs, 1 or more")
    return ParallelSizes(*sizes.values())


def engine_arguments(config: ModelConfig, models_path: Path, known: Collection[str]) -> dict[str, Any]:
    """Arguments of vLLM's engine: defaults, then the config's fields, then its `engine_args`.

    `known`: the arguments that this vLLM has. Raises ConfigInvalid that names what is wrong, and ModelLoadFailed where
    the model's directory isn't there.
    """
    arguments = {
        "model": str(find_directory(config, models_path)),
        "served_model_name": config.name,
        "tokenizer_mode": "hf",  # its tokens' bytes are known, which streams and constraints need
        "seed": 0,
        "structured_outputs_config": {"backend": "guidance"},
        "enable_log_requests": False,
        **_placement(config),
        **_lora(config, models_path),
        **{name: value for field, name in ARGUMENTS.items() if (value := getattr(config, field))},
    }
    if config.parameters.tokenizer:
        arguments["tokenizer"] = str(models_path / config.parameters.tokenizer)
    if config.parameters.batch:
        arguments["max_num_batched_tokens"] = config.parameters.batch
    if config.f16:
        arguments.setdefault("dtype", "float16")
    if config.context_size:
        arguments.setdefault("max_model_len", config.context_size)
    return {**arguments, **_checked(config, known)}


def environment(config: ModelConfig) -> dict[str, str]:
    """Variables of the process in which vLLM runs, where they aren't set already."""
    common = {
        "HF_HUB_OFFLINE": "1",  # nothing is downloaded when a model is loaded
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CONFIGURE_LOGGING": "1",
        "VLLM_LOGGING_LEVEL": "INFO" if config.debug else "WARNING",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if config.num_gpus:
        return common
    return {
        **common,
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # cores are shared with other models
        "OMP_NUM_THREADS": str(config.threads or default_threads()),
    }


def _placement(config: ModelConfig) -> dict[str, Any]:
    sizes = parallel_sizes(config)
    if not config.num_gpus and sizes.gpus == 1:
        return {"enforce_eager": True, "kv_cache_memory_bytes": CPU_KV_BYTES}  # compiling takes minutes there
    if sizes.gpus > 1:
        return {
            "distributed_executor_backend": "ray" if sizes.pipeline > 1 else "mp",
            "pipeline_parallel_size": sizes.pipeline,
        }
    if config.num_gpus and config.num_gpus < 1:
        return {"gpu_memory_utilization": round(WHOLE_GPU_SHARE * config.num_gpus, 3)}
    return {}


def _lora(config: ModelConfig, models_path: Path) -> dict[str, Any]:
    adapter = lora_adapter(config, models_path)
    if adapter is None:
        return {}
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": _max_rank(config, adapter)}


def lora_adapter(config: ModelConfig, models_path: Path) -> Path | None:
    """The directory of the config's LoRA adapter. Raises ConfigInvalid for what vLLM can't do with it."""
    adapters = lora_files(config, models_path)
    if not adapters:
        return None
    if len(adapters) > 1:
        raise ConfigInvalid(
            f"{config.name}: lora_adapters has {len(adapters)} adapters, and vLLM applies one to a request: "
            "write a config with the same parameters.model for each"
        )
    path, scale = adapters[0]
    if scale != 1.0:
        raise ConfigInvalid(f"{config.name}: lora_scale is {scale:g}; vLLM scales an adapter as its own files say")
    if not (path / "adapter_config.json").is_file():
        raise ConfigInvalid(
            f"{config.name}: lora_adapter: {path} is no directory with an adapter_config.json, as PEFT writes it"
        )
    return path


def _max_rank(config: ModelConfig, adapter: Path) -> int:
    rank = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8")).get("r", 0)
    for allowed in LORA_RANKS:
        if rank <= allowed:
            return allowed
    raise ConfigInvalid(f"{config.name}: lora_adapter: its rank is {rank}, and vLLM's are {LORA_RANKS[-1]} at most")


def _engine_args(config: ModelConfig) -> dict[str, Any]:
    """The config's `engine_args`, named as in Python."""
    return {key.removeprefix("--").replace("-", "_"): value for key, value in (config.engine_args or {}).items()}


def _checked(config: ModelConfig, known: Collection[str]) -> dict[str, Any]:
    own = _engine_args(config)
    for key in own:
        if key in OURS:
            raise ConfigInvalid(f"{config.name}: engine_args.{key} can't be set: {OURS[key]}")
        if key not in known:
            raise ConfigInvalid(f"{config.name}: engine_args.{key} is no argument of this vLLM's AsyncEngineArgs")
    return own
