"""THE table of backends: which class serves which tasks, and what must be installed for it."""

import importlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deployments.backends.base import Task
from deployments.errors import BackendNotInstalled, ConfigInvalid


@dataclass(frozen=True, slots=True)
class Backend:
    """One engine. Its module is imported only when a model that uses it is loaded."""

    classes: Mapping[Task, str]
    """What it can do → `module:Class`. The class has `load(config, models_path, progress)`, blocking, and the task's
    Protocol. The first task is that of a model which doesn't say what it is for."""
    requires: tuple[str, ...] = ()
    """Top-level modules that the extra installs."""
    extra: str | None = None
    """The extra of pyproject.toml that brings it: `make install-<extra>`."""
    suffixes: tuple[str, ...] = ()
    """Weights files with these suffixes use this backend when a config names none."""
    environment: str | None = None
    """Folder of the project with the virtual environment in which its replicas run; None: the server's own."""
    spreads: bool = False
    """One replica may be spread over several GPUs: `tensor_parallel_size`."""


BACKENDS: dict[str, Backend] = {
    "llama-cpp": Backend(
        {
            Task.CHAT: "deployments.backends.llama_cpp:LlamaCpp",
            Task.EMBEDDING: "deployments.backends.llama_embedder:LlamaEmbedder",
            Task.RERANK: "deployments.backends.llama_embedder:LlamaReranker",
        },
        requires=("llama_cpp",),
        extra="llama-cpp",
        suffixes=(".gguf",),
    ),
    "sentence-transformers": Backend(
        {
            Task.EMBEDDING: "deployments.backends.sentence_transformers:SentenceEmbedder",
            Task.RERANK: "deployments.backends.sentence_transformers:SentenceReranker",
        },
        requires=("sentence_transformers",),
        extra="sentence-transformers",
    ),
    "vllm": Backend(
        {
            Task.CHAT: "deployments.backends.vllm:Vllm",
            Task.EMBEDDING: "deployments.backends.vllm_pooling:VllmEmbedder",
            Task.RERANK: "deployments.backends.vllm_pooling:VllmReranker",
        },
        requires=("vllm",),
        extra="vllm",
        environment=".venv-vllm",
        spreads=True,
    ),
    "transformers": Backend(
        {
            Task.CHAT: "deployments.backends.transformers_text:TransformersText",
            Task.EMBEDDING: "deployments.backends.sentence_transformers:SentenceEmbedder",
        },
        requires=("llguidance", "sentence_transformers"),
        extra="transformers",
    ),
    "faster-whisper": Backend(
        {Task.TRANSCRIPTION: "deployments.backends.faster_whisper:FasterWhisper"},
        requires=("faster_whisper",),
        extra="whisper",
    ),
    "piper": Backend({Task.SPEECH: "deployments.backends.piper:Piper"}, requires=("piper",), extra="tts"),
    "coqui": Backend({Task.SPEECH: "deployments.backends.coqui:Coqui"}, requires=("TTS",), extra="tts"),
    "transformers-musicgen": Backend(
        {Task.SOUND: "deployments.backends.musicgen:MusicGen"},
        requires=("transformers",),
        extra="transformers",
    ),
    "silero-vad": Backend(
        {Task.VAD: "deployments.backends.silero_vad:SileroVad"},
        requires=("onnxruntime",),
        extra="vad",
    ),
    "diffusers": Backend(
        {Task.IMAGE: "deployments.backends.diffusers:Diffusers"},
        requires=("diffusers",),
        extra="diffusers",
    ),
    "echo": Backend(
        {
            Task.CHAT: "deployments.backends.echo:Echo",
            Task.EMBEDDING: "deployments.backends.echo_encoder:EchoEmbedder",
            Task.RERANK: "deployments.backends.echo_encoder:EchoReranker",
            Task.TRANSCRIPTION: "deployments.backends.echo_media:EchoTranscriber",
            Task.SPEECH: "deployments.backends.echo_media:EchoVoice",
            Task.SOUND: "deployments.backends.echo_media:EchoComposer",
            Task.IMAGE: "deployments.backends.echo_media:EchoPainter",
            Task.VAD: "deployments.backends.echo_media:EchoDetector",
        }
    ),
}

ALIASES: dict[str, str] = {
    "llama": "llama-cpp",
    "llama.cpp": "llama-cpp",
    "llama-ggml": "llama-cpp",
    "llama-cpp-grpc": "llama-cpp",
    "llama-cpp-fallback": "llama-cpp",
    "llama-cpp-avx": "llama-cpp",
    "llama-cpp-avx2": "llama-cpp",
    "llama-cpp-cuda": "llama-cpp",
    "sentencetransformers": "sentence-transformers",
    "huggingface": "sentence-transformers",
    "huggingface-embeddings": "sentence-transformers",
    "bert-embeddings": "sentence-transformers",
    "rerankers": "sentence-transformers",
    "whisper": "faster-whisper",
    "musicgen": "transformers-musicgen",
}
"""Names in LocalAI's YAML files → ours."""


def lookup(name: str) -> Backend:
    """The backend of that name or alias. Raises ConfigInvalid naming those that exist."""
    backend = BACKENDS.get(ALIASES.get(name, name))
    if backend is None:
        raise ConfigInvalid(f'unknown backend "{name}"; backends are: {", ".join(sorted(BACKENDS))}')
    return backend


def for_file(name: str) -> str | None:
    """Name of the backend that reads a weights file of this name, None when none does."""
    return next((key for key, backend in BACKENDS.items() if name.lower().endswith(backend.suffixes or ("\0",))), None)


def engine_class(name: str, task: Task) -> Any:
    """Import the backend's class for a task. Raises BackendNotInstalled with the command that installs what is missing,
    and ConfigInvalid when the backend can't do the task."""
    backend = lookup(name)
    if task not in backend.classes:
        raise ConfigInvalid(f'backend "{name}" can\'t do {task}: it is for {", ".join(backend.classes)}')
    missing = next((one for one in backend.requires if importlib.util.find_spec(one) is None), None)
    if missing is not None:
        raise BackendNotInstalled(
            f'backend "{name}" needs the Python package "{missing}", which is not installed here; '
            f"run: make install-{backend.extra}"
        )
    module, _, attribute = backend.classes[task].partition(":")
    return getattr(importlib.import_module(module), attribute)
