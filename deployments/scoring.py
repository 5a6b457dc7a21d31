"""How a model that reranks makes its scores, as far as its files tell without loading it."""

from pathlib import Path
from typing import Literal

from deployments.backends.base import Task
from deployments.backends.model_directory import find_directory, is_cross_encoder
from deployments.config import ModelConfig, tasks
from deployments.errors import ModelLoadFailed

Scoring = Literal["cross-encoder", "cosine", ""]


def scoring(config: ModelConfig, models_path: Path) -> Scoring:
    """Empty: it doesn't rerank, or its files aren't there."""
    served = tasks(config)
    if Task.RERANK not in served:
        return ""
    if served[0] is Task.EMBEDDING:
        return "cosine"
    if (config.parameters.model or "").lower().endswith(".gguf"):
        return "cross-encoder"
    try:
        return "cross-encoder" if is_cross_encoder(find_directory(config, models_path)) else "cosine"
    except ModelLoadFailed:
        return ""
