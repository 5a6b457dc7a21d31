"""Model configs: every field is accounted for, defaults, sampling, tasks."""

import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from deployments.backends.base import Sampling, Task
from deployments.config import ModelConfig, ModelDefaults, default_threads, tasks, unserved, with_defaults
from deployments.config_blocks import Diffusers, Parameters
from deployments.config_unused import UNUSED, used_unused
from deployments.errors import ConfigInvalid

READ_BY_SOMETHING = """
name alias backend description disabled known_usecases embeddings reranking options
min_replicas max_replicas num_cpus num_gpus target_ongoing_requests max_queued_requests idle_timeout load_timeout
pinned preload parallel kv_cells truncate download_files runtime_env type dtype f16 trust_remote_code
threads context_size gpu_layers mmap mmlock tensor_split main_gpu flash_attention no_kv_offloading
cache_type_k cache_type_v numa rope_scaling yarn_ext_factor yarn_attn_factor yarn_beta_fast yarn_beta_slow
mmproj lora_adapter lora_scale lora_adapters lora_scales mirostat mirostat_eta mirostat_tau grammar
roles system_prompt chat_template_kwargs reasoning_effort stopwords cutstrings extract_regex trimspace trimsuffix
parameters.model parameters.temperature parameters.top_k parameters.top_p parameters.min_p parameters.typical_p
parameters.max_tokens parameters.batch parameters.pooling parameters.ignore_eos parameters.repeat_penalty
parameters.repeat_last_n parameters.frequency_penalty parameters.presence_penalty parameters.seed
parameters.logit_bias parameters.rope_freq_base parameters.rope_freq_scale
template.chat template.chat_message template.completion template.edit template.use_tokenizer_template
template.join_chat_messages_by_character parameters.language
parameters.translate quantization tts.voice tts.audio_path tts.vall_e
step cfg_scale cuda parameters.clip_skip parameters.negative_prompt
diffusers.cuda diffusers.pipeline_type diffusers.scheduler_type diffusers.original_config_file
load_format gpu_memory_utilization enforce_eager max_model_len tensor_parallel_size disable_log_stats engine_args
limit_mm_per_prompt parameters.tokenizer
tool_format reasoning_format reasoning.disable reasoning.strip_reasoning_only reasoning.tag_pairs template.function
function.disable_no_action function.no_action_function_name function.no_action_description_name
function.response_regex function.json_regex_match function.replace_function_results function.replace_llm_results
function.capture_llm_results function.function_name_key function.function_arguments_key function.argument_regex
function.argument_regex_key_name function.argument_regex_value_name function.xml_format_preset function.xml_format
function.grammar.disable function.grammar.parallel_calls function.grammar.disable_parallel_new_lines
function.grammar.mixed_mode function.grammar.no_mixed_free_string function.grammar.expect_strings_after_json
function.grammar.prefix function.grammar.properties_order function.grammar.schema_type function.grammar.triggers
function.grammar.function_arguments_key
diffusers.enable_parameters diffusers.cfg_scale diffusers.img2img diffusers.clip_skip diffusers.control_net
"""
HONOURED = set(READ_BY_SOMETHING.split())
"""A new field must come here or into UNUSED."""


def leaves(cls: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(cls).items():
        if name == "__pydantic_config__":
            continue
        if isinstance(hint, type) and is_dataclass(hint):
            yield from leaves(hint, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def unused(path: str) -> bool:
    return path in UNUSED or path.partition(".")[0] in UNUSED


def test_every_field_is_either_honoured_or_named_as_unused() -> None:
    assert {path for path in leaves(ModelConfig) if not unused(path)} == HONOURED


def test_every_unused_path_is_a_field_or_a_block() -> None:
    paths = set(leaves(ModelConfig))
    known = paths | {path.partition(".")[0] for path in paths}
    assert UNUSED.keys() <= known


def test_unused_keys_of_a_file_are_found() -> None:
    raw = {
        "name": "x",
        "limits": {"max_concurrent": 1},
        "parameters": {"top_k": 1, "tfz": 0.5},
        "template": {"chat": ""},
    }
    assert used_unused(raw) == ["limits", "parameters.tfz"]


def test_the_module_needs_the_standard_library_alone() -> None:
    root = str(Path(__file__).parents[3])
    code = f"import sys; sys.path.insert(0, {root!r}); import deployments.config, deployments.config_unused"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_a_config_survives_pickling() -> None:
    config = ModelConfig(name="x", parameters=Parameters(model="x.gguf", logit_bias={1: 2.0}), stopwords=["a"])
    assert pickle.loads(pickle.dumps(config)) == config


def test_sampling_of_an_empty_config_is_localais_default() -> None:
    assert ModelConfig(name="x").sampling() == Sampling()


def test_sampling_takes_the_configs_values() -> None:
    own = Parameters(temperature=0.0, top_k=0, seed=7, logit_bias={3: -1.0}, ignore_eos=True)
    sampling = ModelConfig(name="x", parameters=own, mirostat=2, mirostat_tau=4.0).sampling()
    assert sampling == Sampling(
        temperature=0.0, top_k=0, seed=7, logit_bias={3: -1.0}, ignore_eos=True, mirostat=2, mirostat_tau=4.0
    )


def test_values_that_mean_unset_to_localai_are_unset() -> None:
    assert ModelConfig(name="x", parameters=Parameters(seed=-1, repeat_penalty=0.0)).sampling() == Sampling()


def test_defaults_fill_only_what_is_unset() -> None:
    config = with_defaults(ModelConfig(name="x", parallel=2, idle_timeout=0.0), ModelDefaults(context_size=512))
    assert (config.parallel, config.idle_timeout, config.context_size) == (2, 0.0, 512)
    assert (config.max_replicas, config.num_cpus, config.load_timeout) == (1, 0.1, 600.0)


@pytest.mark.parametrize(
    ("settings", "gpus"),
    [({}, 0), ({"cuda": True}, 1), ({"diffusers": Diffusers(cuda=True)}, 1), ({"cuda": True, "num_gpus": 0.5}, 0.5)],
)
def test_cuda_asks_for_a_gpu_where_num_gpus_says_nothing(settings: dict[str, Any], gpus: float) -> None:
    assert with_defaults(ModelConfig(name="x", **settings), ModelDefaults()).num_gpus == gpus


def test_every_default_is_a_field_of_a_model() -> None:
    assert {f.name for f in fields(ModelDefaults)} <= {f.name for f in fields(ModelConfig)}


def test_threads_default_to_at_least_one() -> None:
    assert default_threads() >= 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"backend": "llama-cpp"}, [Task.CHAT]),
        ({"backend": "echo"}, [Task.CHAT]),
        ({"backend": "transformers"}, [Task.CHAT]),
        ({"backend": "transformers", "type": "AutoModelForCausalLM"}, [Task.CHAT]),
        ({"backend": "transformers", "type": "AutoModel"}, [Task.EMBEDDING]),
        ({"backend": "llama-cpp", "embeddings": True}, [Task.EMBEDDING]),
        ({"backend": "llama-cpp", "reranking": True}, [Task.RERANK]),
        ({"backend": "llama-cpp", "reranking": True, "embeddings": True}, [Task.RERANK]),
        ({"known_usecases": ["chat", "completion", "embeddings"]}, [Task.CHAT]),
        ({"known_usecases": ["embeddings", "chat"]}, [Task.EMBEDDING]),
        ({"known_usecases": ["rerank", "embeddings"]}, [Task.EMBEDDING, Task.RERANK]),
        ({"known_usecases": ["rerank", "chat", "embeddings"]}, [Task.CHAT]),
        ({"known_usecases": ["rerank"]}, [Task.RERANK]),
        ({"known_usecases": ["CHAT", "video"]}, [Task.CHAT]),
        ({"known_usecases": ["video"]}, []),
        ({}, []),
    ],
)
def test_tasks(settings: dict[str, Any], expected: list[Task]) -> None:
    assert tasks(ModelConfig(name="x", **settings)) == expected


def test_usecases_that_are_not_served_are_named_with_the_reason() -> None:
    config = ModelConfig(name="x", known_usecases=["embeddings", "chat", "rerank", "video"])
    assert unserved(config) == {"chat": "its replicas are for embedding", "video": "not offered"}
    assert unserved(ModelConfig(name="x", known_usecases=["rerank", "embeddings"])) == {}
    assert unserved(ModelConfig(name="x", backend="echo")) == {}


def test_tasks_of_an_unknown_backend_names_the_known_ones() -> None:
    with pytest.raises(ConfigInvalid, match=r"llama-cpp"):
        tasks(ModelConfig(name="x", backend="nope"))
