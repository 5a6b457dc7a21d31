"""ModelConfig: LocalAI's model YAML as standard-library dataclasses, and the server-wide defaults under it.

Names are the YAML keys. A field without a docstring is accepted so that LocalAI's files load as they are; what
nothing reads yet is listed in `config_unused`. None means unset. Sources: LocalAI's core/config/model_config.go
and core/schema/prediction.go.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, Literal

from deployments.backends.base import Sampling, Task
from deployments.backends.registry import lookup
from deployments.config_blocks import (
    STRICT,
    Diffusers,
    DownloadFile,
    FunctionConfig,
    Parameters,
    Reasoning,
    Template,
    Tts,
)

USECASES: Mapping[str, Task | None] = {
    **dict.fromkeys(("chat", "completion", "edit", "llm", "tokenize"), Task.CHAT),
    "embeddings": Task.EMBEDDING,
    "rerank": Task.RERANK,
    "transcript": Task.TRANSCRIPTION,
    "tts": Task.SPEECH,
    "sound_generation": Task.SOUND,
    "image": Task.IMAGE,
    "vad": Task.VAD,
    **dict.fromkeys(
        ("video", "detection", "vision", "face_recognition", "speaker_recognition", "audio_transform", "diarization",
         "sound_classification", "realtime_audio", "score", "depth", "token_classify", "3d"),
    ),
}  # fmt: skip
"""LocalAI's names for what a model is for. None: a use that we don't serve."""

ENCODER_TYPES = frozenset(("automodel", "sentencetransformer", "ovmodelforfeatureextraction"))
"""LocalAI's `type`s of models that embed, in lower case."""

ALSO: Mapping[Task, frozenset[Task]] = {Task.EMBEDDING: frozenset({Task.RERANK})}
"""A replica runs one deployment class. Main task → what its class can do beside it."""


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """One installed model."""

    __pydantic_config__: ClassVar[dict[str, Any]] = STRICT

    name: str
    """Its id in the API."""
    alias: str | None = None
    """Requests for this name go to that model; all other fields are ignored."""
    backend: str | None = None
    """A row of `backends.registry`."""
    description: str | None = None
    disabled: bool | None = None
    """Refuse requests with 403."""
    known_usecases: list[str] | None = None
    """What the model is for (keys of USECASES). None: guessed from the backend."""
    embeddings: bool | None = None
    """The model embeds text."""
    reranking: bool | None = None
    """The model scores documents against a query."""
    parameters: Parameters = field(default_factory=Parameters)
    options: list[str] | None = None
    """Settings of the backend, as `key:value`."""

    # ---- Manta's own: how the model is run ----
    min_replicas: int | None = None
    """Replicas while loaded; more than 0 also keeps it loaded."""
    max_replicas: int | None = None
    """More than `min_replicas`: autoscaled by `target_ongoing_requests`."""
    num_cpus: float | None = None
    """Logical CPUs that Ray sets aside per replica; the engine's threads are `threads`."""
    num_gpus: float | None = None
    """GPUs per replica; a fraction shares one."""
    target_ongoing_requests: float | None = None
    """Requests per replica that autoscaling aims at."""
    max_queued_requests: int | None = None
    """Requests that may wait for a slot; the next gets 429. -1: no limit."""
    idle_timeout: float | None = None
    """Seconds without a request until the model is unloaded ("15m" in YAML works too). 0: never."""
    load_timeout: float | None = None
    """Seconds that loading may take ("10m" in YAML works too)."""
    pinned: bool | None = None
    """Never unloaded, neither when idle nor for another model."""
    preload: bool | None = None
    """Loaded when the server starts."""
    parallel: int | None = None
    """Slots: sequences generated at the same time per replica."""
    kv_cells: int | None = None
    """KV cache size in tokens, shared by all slots of a replica."""
    truncate: bool | None = None
    """Inputs of an encoder that are too long are cut; False: refused. A request may say otherwise. Default true."""
    runtime_env: dict[str, Any] | None = None
    """Ray runtime environment of the replicas."""

    # ---- llama.cpp ----
    threads: int | None = None
    """CPU threads of the engine."""
    context_size: int | None = None
    """Tokens one request may use, prompt and output together."""
    gpu_layers: int | None = None
    """Layers on the GPU; None: all."""
    mmap: bool | None = None
    """Map the weights instead of reading them; default true."""
    mmlock: bool | None = None
    """Keep the weights out of swap."""
    tensor_split: str | None = None
    """Shares of each GPU, like "0.5,0.5"."""
    main_gpu: int | str | None = None
    """Index of the GPU for small tensors."""
    flash_attention: bool | Literal["auto", "on", "off"] | None = None
    no_kv_offloading: bool | None = None
    """Keep the KV cache in main memory."""
    cache_type_k: str | None = None
    """ggml type of the cached keys: f16, q8_0, …; `cache_type_v` the values'."""
    cache_type_v: str | None = None
    numa: bool | None = None
    rope_scaling: str | None = None
    """none, linear or yarn."""
    yarn_ext_factor: float | None = None
    yarn_attn_factor: float | None = None
    yarn_beta_fast: float | None = None
    yarn_beta_slow: float | None = None
    mmproj: str | None = None
    """GGUF file in the models directory: the projector that makes llama.cpp read pictures or sounds."""
    lora_adapter: str | None = None
    """GGUF file in the models directory; with vLLM, a directory there that PEFT wrote."""
    lora_scale: float | None = None
    lora_adapters: list[str] | None = None
    lora_scales: list[float] | None = None
    """One per adapter; a missing one is 1."""
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_eta: float | None = None
    mirostat_tau: float | None = None
    grammar: str | None = None
    """GBNF for every request that brings no constraint of its own."""

    # ---- prompt and answer ----
    template: Template = field(default_factory=Template)
    roles: dict[str, str] | None = None
    """Prefix of a message per role; the key `assistant_function_call` is for assistant messages with tool calls."""
    system_prompt: str | None = None
    """For requests without a system message."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables for the model's own Jinja template."""
    reasoning_effort: str | None = None
    """Another one: none, minimal, low, medium or high."""
    tool_format: str | None = None
    """How it writes tool calls (a row of `text.tool_formats`). None: as `function` or the chat template shows."""
    reasoning_format: str | None = None
    """Tags around the model's reasoning (a row of `text.reasoning`), or none. None: as the chat template shows."""
    reasoning: Reasoning = field(default_factory=Reasoning)
    stopwords: list[str] | None = None
    """Added to the request's `stop`."""
    cutstrings: list[str] | None = None
    """Regular expressions whose matches are removed from the answer."""
    extract_regex: list[str] | None = None
    """Regular expressions: the answer becomes its matches, joined."""
    trimspace: list[str] | None = None
    """Prefixes cut off the answer, with the spaces around it."""
    trimsuffix: list[str] | None = None
    """Suffixes cut off the answer, with the spaces around it."""

    # ---- text models and encoders on torch ----
    type: str | None = None
    """What LocalAI calls the model's class, such as AutoModelForCausalLM or AutoModel. None: as its directory says."""
    dtype: str | None = None
    """Of the weights on a GPU: float32, float16, bfloat16, or auto (as they are stored)."""
    f16: bool | None = None
    """float16 on a GPU, where `dtype` says nothing."""
    trust_remote_code: bool | None = None
    """Run Python code that lies in the model's directory."""

    # ---- vLLM ----
    quantization: str | None = None
    """Of the weights, where they are stored so: awq, gptq, fp8, … (vLLM's names). Done while transformers loads them:
    bnb_4bit, bnb_8bit. Of Whisper's weights and computation: int8, int8_float16, float16, … (CTranslate2's types)."""
    gpu_memory_utilization: float | None = None
    """Share of a GPU's memory, 0 to 1. None: 0.9, or of a fraction of a GPU that fraction of it."""
    enforce_eager: bool | None = None
    """Don't compile the model: it loads sooner and runs slower."""
    swap_space: int | None = None
    max_model_len: int | None = None
    """vLLM's name of `context_size`, before which it goes."""
    tensor_parallel_size: int | None = None
    """GPUs of one node that share every layer."""
    load_format: str | None = None
    """How the weights are read: auto, safetensors, runai_streamer, …"""
    disable_log_stats: bool | None = None
    """vLLM counts less."""
    limit_mm_per_prompt: dict[str, int] | None = None
    """Pictures or sounds that a prompt may hold: `{image: 4}`."""
    engine_args: dict[str, Any] | None = None
    """Any other argument of vLLM's AsyncEngineArgs; goes before all of these."""

    # ---- images ----
    diffusers: Diffusers = field(default_factory=Diffusers)
    step: int | None = None
    """Denoising steps, where the request doesn't say. None: the pipeline's, at most 15."""
    cfg_scale: float | None = None
    """Classifier-free guidance: how closely to follow the prompt. None: the pipeline's."""
    cuda: bool | None = None
    """One GPU, where `num_gpus` says nothing."""

    # ---- LocalAI's others ----
    debug: bool | None = None
    known_input_modalities: list[str] | None = None
    known_output_modalities: list[str] | None = None
    function: FunctionConfig = field(default_factory=FunctionConfig)
    feature_flags: dict[str, bool] | None = None
    low_vram: bool | None = None
    no_mulmatq: bool | None = None
    rms_norm_eps: float | None = None
    ngqa: int | None = None
    prompt_cache_path: str | None = None
    prompt_cache_all: bool | None = None
    prompt_cache_ro: bool | None = None
    lora_base: str | None = None
    draft_model: str | None = None
    n_draft: int | None = None
    autogptq: dict[str, Any] | None = None
    tts: Tts = field(default_factory=Tts)
    grpc: dict[str, int] | None = None
    env: dict[str, str] | None = None
    download_files: list[DownloadFile] | None = None
    artifacts: list[dict[str, Any]] | None = None
    usage: str | None = None
    overrides: list[str] | None = None
    pipeline: dict[str, Any] | None = None
    concurrency_groups: list[str] | None = None
    limits: dict[str, int] | None = None
    compression: dict[str, Any] | None = None
    mcp: dict[str, str] | None = None
    agent: dict[str, Any] | None = None
    failover: dict[str, Any] | None = None
    pii: dict[str, Any] | None = None
    pii_detection: dict[str, Any] | None = None
    router: dict[str, Any] | None = None
    proxy: dict[str, Any] | None = None
    mitm: dict[str, Any] | None = None

    def sampling(self) -> Sampling:
        """The model's defaults for a request. Unset: LocalAI's defaults, with mirostat off as on its master."""
        own = self.parameters
        values = {f.name: getattr(own if hasattr(own, f.name) else self, f.name) for f in fields(Sampling)}
        values["repeat_penalty"] = own.repeat_penalty or None
        values["seed"] = None if own.seed is None or own.seed < 0 else own.seed
        return Sampling(**{name: value for name, value in values.items() if value is not None})


@dataclass(kw_only=True, slots=True)
class ModelDefaults:
    """Server-wide values for what a model's own file leaves unset."""

    threads: int | None = None
    """None: `default_threads()` of the machine the replica runs on."""
    context_size: int | None = None
    """None: what the model was trained for, at most 8,192."""
    f16: bool | None = None
    parallel: int | None = 32
    kv_cells: int | None = None
    """None: 4 times the context size."""
    min_replicas: int | None = 0
    max_replicas: int | None = 1
    num_cpus: float | None = 0.1
    """Ray's logical CPUs must not cap how many models a small machine holds."""
    num_gpus: float | None = 0
    target_ongoing_requests: float | None = None
    """None: three quarters of `parallel`; what fills a few batches where the model is an encoder."""
    max_queued_requests: int | None = None
    """None: no limit."""
    idle_timeout: float | None = 30 * 60.0
    """Seconds; 0: never."""
    load_timeout: float | None = 10 * 60.0
    """Seconds."""


def with_defaults(config: ModelConfig, defaults: ModelDefaults) -> ModelConfig:
    """A copy of `config` whose unset fields are the server's."""
    if config.num_gpus is None and (config.cuda or config.diffusers.cuda):
        config = replace(config, num_gpus=1)
    unset = [f.name for f in fields(defaults) if getattr(config, f.name) is None]
    return replace(config, **{name: getattr(defaults, name) for name in unset})


def default_threads() -> int:
    """Half the cores this process may run on, at least 1: two spinning threads on two busy cores lose to one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


def tasks(config: ModelConfig) -> list[Task]:
    """What the model is for, the first its main one: as `known_usecases` says, or as its flags and backend suggest.

    Of several usecases those count that the deployment class of the first one does; `unserved` names the others.
    """
    if config.known_usecases is not None:
        usecases = (USECASES.get(usecase.lower()) for usecase in config.known_usecases)
        named = list(dict.fromkeys(task for task in usecases if task is not None))
        beside = {also for task in named for also in ALSO.get(task, ())}  # an embedder may name reranking first
        main = next((task for task in named if task not in beside), None)
        return [main, *(task for task in named if task in ALSO.get(main, ()))] if main else []
    if config.reranking:
        return [Task.RERANK]
    if config.embeddings or (config.type or "").lower() in ENCODER_TYPES:
        return [Task.EMBEDDING]
    if config.backend is None:
        return []
    return list(lookup(config.backend).classes)[:1]


def unserved(config: ModelConfig) -> dict[str, str]:
    """Those of `known_usecases` for which the model is not offered → why."""
    served = tasks(config)
    return {
        usecase: f"its replicas are for {served[0]}" if USECASES.get(usecase.lower()) and served else "not offered"
        for usecase in config.known_usecases or []
        if USECASES.get(usecase.lower()) not in served
    }
