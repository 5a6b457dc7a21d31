"""Fields of a model's YAML that are accepted and not used: reported, so that nothing is dropped in silence.

A field moves out of here in the commit that makes something read it; `test_config.py` holds the other half of the list.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_REASONS: dict[str, str] = {
    "LocalAI itself ignores it": "function.return_name_in_function_response",
    "the parser of calls is tool_format": "function.automatic_tool_parsing_fallback function.disable_peg_parser",
    "text models take text only yet": "known_input_modalities known_output_modalities "
    "template.image template.video template.audio template.multimodal",
    "vLLM no longer swaps": "swap_space",
    "tokenizers are fast ones": "parameters.use_fast_tokenizer",
    "pooling by decay is not there": "parameters.pooling_half_life_tokens",
    "the text encoder is that of the pipeline's files": "diffusers.clip_model diffusers.clip_subfolder",
    "text models are not guided away from a prompt": "parameters.negative_prompt_scale",
    "a voice is cloned where the model can; a model lists its own voices": "tts.voice_cloning tts.voices",
    "use download_files": "artifacts",
    "seen in the prompt itself": "reasoning.disable_reasoning_tag_prefill reasoning.thinking_start_tokens",
    "answers begin where the template ends": "template.reply_prefix",
    "speculative decoding is not there": "draft_model n_draft",
    "llama.cpp no longer has this option": "low_vram no_mulmatq rms_norm_eps ngqa lora_base parameters.tfz",
    "prefixes are kept in the KV cache, not on disk": "prompt_cache_path prompt_cache_all prompt_cache_ro",
    "said by the request alone": "parameters.n parameters.echo parameters.logprobs parameters.top_logprobs "
    "parameters.encoding_format",
    "a full context ends the answer, nothing is shifted out": "parameters.n_keep",
    "metadata of a GGUF file is used as it is": "overrides",
    "usage is always counted": "feature_flags",
    "shown by LocalAI's web page only": "usage",
    "the log level is the server's": "debug",
    "backends are Ray actors, not gRPC processes": "grpc",
    "use runtime_env: {env_vars: …}": "env",
    "AutoGPTQ is gone from LocalAI too": "autogptq",
    "use max_queued_requests": "limits",
    "not offered": "pipeline concurrency_groups compression mcp agent failover pii pii_detection router proxy mitm",
}

UNUSED: dict[str, str] = {path: reason for reason, paths in _REASONS.items() for path in paths.split()}
"""Dotted path of a field or of a whole block → why nothing reads it."""


def used_unused(raw: Mapping[str, Any]) -> list[str]:
    """The UNUSED paths that a raw YAML config sets, in its own order."""
    return list(dict.fromkeys(path for path in _paths(raw) if path in UNUSED))


def _paths(raw: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in raw.items():
        yield f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
