"""vLLM's arguments from a model's config. No vLLM is imported."""

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.backends.vllm_arguments import engine_arguments, environment, lora_adapter, parallel_sizes
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters
from deployments.errors import ConfigInvalid

KNOWN = {"max_num_seqs", "block_size", "pipeline_parallel_size", "tensor_parallel_size", "kv_cache_dtype"}


@pytest.fixture
def models_path(tmp_path: Path) -> Path:
    """A models directory with a model, and an adapter of rank 12."""
    for name, files in {"base": ("config.json", "model.safetensors"), "poet": ()}.items():
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_text("{}")
    (tmp_path / "poet" / "adapter_config.json").write_text(json.dumps({"r": 12}))
    return tmp_path


def config(**fields: Any) -> ModelConfig:
    parameters = Parameters(model="base", **fields.pop("parameters", {}))
    return ModelConfig(name="m", backend="vllm", parameters=parameters, **fields)


def arguments(models_path: Path, **fields: Any) -> dict[str, Any]:
    return engine_arguments(config(**fields), models_path, KNOWN)


def test_the_configs_fields_become_vllms_arguments(models_path: Path) -> None:
    made = arguments(
        models_path,
        num_gpus=1,
        dtype="bfloat16",
        quantization="awq",
        gpu_memory_utilization=0.5,
        enforce_eager=True,
        trust_remote_code=True,
        max_model_len=4096,
        context_size=2048,
        load_format="safetensors",
        disable_log_stats=True,
        limit_mm_per_prompt={"image": 2},
        parallel=64,
        parameters={"batch": 8192, "tokenizer": "base"},
    )
    expected = {
        "model": str(models_path / "base"),
        "tokenizer": str(models_path / "base"),
        "served_model_name": "m",
        "dtype": "bfloat16",
        "quantization": "awq",
        "gpu_memory_utilization": 0.5,
        "enforce_eager": True,
        "trust_remote_code": True,
        "max_model_len": 4096,
        "load_format": "safetensors",
        "disable_log_stats": True,
        "limit_mm_per_prompt": {"image": 2},
        "max_num_seqs": 64,
        "max_num_batched_tokens": 8192,
    }
    assert expected.items() <= made.items()


def test_zero_is_localais_unset(models_path: Path) -> None:
    made = arguments(models_path, num_gpus=1, gpu_memory_utilization=0, max_model_len=0, tensor_parallel_size=0)
    assert not made.keys() & {"gpu_memory_utilization", "max_model_len", "tensor_parallel_size"}


def test_engine_args_go_before_fields_and_may_be_written_as_on_the_command_line(models_path: Path) -> None:
    made = arguments(
        models_path, parallel=4, engine_args={"max-num-seqs": 8, "--block-size": 32, "kv_cache_dtype": "fp8"}
    )
    assert (made["max_num_seqs"], made["block_size"], made["kv_cache_dtype"]) == (8, 32, "fp8")


@pytest.mark.parametrize(
    ("engine_args", "words"),
    [
        ({"max_num_sequences": 8}, "engine_args.max_num_sequences is no argument"),
        ({"model": "other"}, "engine_args.model can't be set: it is parameters.model"),
        ({"distributed_executor_backend": "ray"}, "it follows from the parallel sizes"),
    ],
)
def test_a_wrong_engine_argument_is_refused_by_name(models_path: Path, engine_args: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        arguments(models_path, engine_args=engine_args)


def test_without_a_gpu_nothing_is_compiled(models_path: Path) -> None:
    assert arguments(models_path, num_gpus=0)["enforce_eager"] is True
    assert "enforce_eager" not in arguments(models_path, num_gpus=1)


def test_a_part_of_a_gpu_is_given_its_part_of_the_memory(models_path: Path) -> None:
    assert arguments(models_path, num_gpus=0.5)["gpu_memory_utilization"] == 0.45
    assert arguments(models_path, num_gpus=0.5, gpu_memory_utilization=0.3)["gpu_memory_utilization"] == 0.3


def test_tensor_parallel_runs_in_processes_and_stages_in_ray_actors(models_path: Path) -> None:
    one_node = arguments(models_path, tensor_parallel_size=4)
    assert (one_node["tensor_parallel_size"], one_node["distributed_executor_backend"]) == (4, "mp")
    nodes = arguments(models_path, tensor_parallel_size=2, engine_args={"pipeline_parallel_size": 2})
    sizes = (nodes["tensor_parallel_size"], nodes["pipeline_parallel_size"], nodes["distributed_executor_backend"])
    assert sizes == (2, 2, "ray")


@pytest.mark.parametrize("size", [0, "two", 1.5])
def test_a_parallel_size_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(ConfigInvalid, match="pipeline_parallel_size is"):
        parallel_sizes(config(engine_args={"pipeline_parallel_size": size}))


def test_an_adapter_is_announced_with_a_rank_that_vllm_has(models_path: Path) -> None:
    made = arguments(models_path, lora_adapter="poet")
    assert (made["enable_lora"], made["max_lora_rank"]) == (True, 16)
    assert lora_adapter(config(lora_adapter="poet"), models_path) == models_path / "poet"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lora_adapters": ["poet", "poet"]}, "applies one to a request"),
        ({"lora_adapter": "poet", "lora_scale": 0.5}, "lora_scale is 0.5"),
        ({"lora_adapter": "base"}, "no directory with an adapter_config.json"),
    ],
)
def test_what_vllm_cant_do_with_adapters_is_refused(models_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        arguments(models_path, **fields)


def test_the_environment_of_a_cpu_shares_cores(models_path: Path) -> None:
    on_cpu = environment(config(num_gpus=0, threads=3))
    assert (on_cpu["OMP_NUM_THREADS"], on_cpu["VLLM_CPU_OMP_THREADS_BIND"]) == ("3", "nobind")
    on_gpu = environment(config(num_gpus=1))
    assert "OMP_NUM_THREADS" not in on_gpu
    assert on_gpu["HF_HUB_OFFLINE"] == on_cpu["HF_HUB_OFFLINE"] == "1"
