"""From config to llama.cpp's parameters."""

from pathlib import Path
from typing import Any

import pytest

llama_cpp = pytest.importorskip("llama_cpp")

from deployments.backends.llama_params import context_params, encoder_params, model_params  # noqa: E402
from deployments.backends.lora import lora_files  # noqa: E402
from deployments.config import ModelConfig  # noqa: E402
from deployments.config_blocks import Parameters  # noqa: E402
from deployments.errors import ConfigInvalid  # noqa: E402


def config(batch: int | None = None, **fields: Any) -> ModelConfig:
    return ModelConfig(name="m", parameters=Parameters(model="m.gguf", batch=batch), **fields)


def test_defaults() -> None:
    params, context_size = context_params(config(threads=1), trained_context=131_072)
    assert (context_size, params.n_ctx, params.n_seq_max) == (8192, 4 * 8192, 32)
    assert (params.n_batch, params.n_ubatch, params.n_threads) == (512, 512, 1)
    assert params.kv_unified
    assert params.flash_attn_type == llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO
    assert context_params(config(), trained_context=2048)[1] == 2048


def test_a_batch_holds_a_token_of_every_slot() -> None:
    params, _ = context_params(config(batch=16, parallel=64), trained_context=1024)
    assert params.n_batch == 64


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({"flash_attention": True}, "flash_attn_type", llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED),
        ({"flash_attention": "off"}, "flash_attn_type", llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED),
        ({"no_kv_offloading": True}, "offload_kqv", False),
        ({"cache_type_k": "q8_0"}, "type_k", llama_cpp.GGML_TYPE_Q8_0),
        ({"cache_type_v": "f32"}, "type_v", llama_cpp.GGML_TYPE_F32),
        ({"rope_scaling": "yarn"}, "rope_scaling_type", llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN),
        ({"yarn_beta_fast": 16.0}, "yarn_beta_fast", 16.0),
        ({"parallel": 4}, "n_seq_max", 4),
    ],
)
def test_fields_of_the_context(fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(context_params(config(**fields), trained_context=1024)[0], name) == value


@pytest.mark.parametrize(
    ("fields", "name", "value"),
    [
        ({}, "load_mode", llama_cpp.LLAMA_LOAD_MODE_MMAP),
        ({"mmap": False, "mmlock": True}, "load_mode", llama_cpp.LLAMA_LOAD_MODE_MLOCK),
        ({"gpu_layers": 7}, "n_gpu_layers", 7),
        ({}, "n_gpu_layers", -1),
        ({"main_gpu": "1"}, "main_gpu", 1),
    ],
)
def test_fields_of_the_model(fields: dict[str, Any], name: str, value: object) -> None:
    assert getattr(model_params(config(**fields)), name) == value


def test_tensor_split() -> None:
    assert model_params(config(tensor_split="0.25")).tensor_split[0] == 0.25


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"context_size": 1000, "kv_cells": 999}, r"m: kv_cells \(999\) is less than context_size \(1000\)"),
        ({"cache_type_k": "q9"}, "cache_type_k is 'q9'; known are bf16, f16"),
        ({"rope_scaling": "cubic"}, "rope_scaling"),
    ],
)
def test_what_cannot_be_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        context_params(config(**fields), trained_context=1024)


def test_adapters_and_their_scales() -> None:
    models = Path("/models")
    assert lora_files(config(), models) == []
    one = config(lora_adapter="a", lora_scale=0.5, lora_adapters=["b", "c"], lora_scales=[0.0])
    assert lora_files(one, models) == [(models / "a", 0.5), (models / "b", 0.0), (models / "c", 1.0)]


def test_an_encoder_takes_its_longest_input_in_one_batch() -> None:
    params, max_length, batch_tokens = encoder_params(config(batch=64), 512, llama_cpp.LLAMA_POOLING_TYPE_CLS)
    assert (max_length, batch_tokens) == (512, 64)
    assert params.n_ctx == params.n_batch == params.n_ubatch == 512
    assert params.embeddings
    assert params.pooling_type == llama_cpp.LLAMA_POOLING_TYPE_CLS
    assert params.n_seq_max > 1
    assert params.kv_unified


def test_an_encoder_reads_what_it_was_trained_for_at_most() -> None:
    pooling = llama_cpp.LLAMA_POOLING_TYPE_MEAN
    assert encoder_params(config(context_size=1024), 512, pooling)[1] == 512
    assert encoder_params(config(context_size=128), 512, pooling)[1] == 128
    params, max_length, batch_tokens = encoder_params(config(context_size=16), 512, pooling)
    assert max_length < batch_tokens == params.n_batch
