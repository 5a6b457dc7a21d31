"""A model as the ingress knows it: what it is for, and its card."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Task(StrEnum):
    """What a model is for. One deployment class each."""

    CHAT = "chat"
    """Text generation: chat, completions, edits, tokenize."""
    EMBEDDING = "embedding"
    RERANK = "rerank"
    TRANSCRIPTION = "transcription"
    SPEECH = "speech"
    SOUND = "sound"
    IMAGE = "image"
    VAD = "vad"


Progress = Callable[[float], None]
"""Called by a loading engine with the fraction done, 0 to 1, from any thread."""


@dataclass(slots=True)
class ModelCard:
    """What the ingress knows of an installed model."""

    name: str
    tasks: list[Task]
    created: int
    """Unix seconds: when its file was written."""
    backend: str
    disabled: bool = False
    alias_of: str | None = None
    """Requests for this name go to that model."""
    loose: bool = False
    """A bare weights file without a config."""
    scoring: str = ""
    """Of a model that reranks: `cross-encoder`, or `cosine` similarity of a bi-encoder's embeddings."""
