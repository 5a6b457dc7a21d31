"""A model's directory in Hugging Face's layout: where it is and what its files say. Loads nothing."""

import json
from pathlib import Path
from typing import Any

from deployments.config import ModelConfig
from deployments.errors import ModelLoadFailed

CONFIG = "config.json"
WEIGHTS = "*.safetensors"
PICKLED_WEIGHTS = "pytorch_model*.bin"


def find_directory(config: ModelConfig, models_path: Path, *, allow_pickles: bool = False) -> Path:
    """Where a model lies: `parameters.model` is a folder in the models directory, or a file in that folder.

    Raises ModelLoadFailed that names what is missing.
    """
    named = models_path / (config.parameters.model or config.name)
    directory = named.parent if named.is_file() else named
    if not directory.is_dir():
        raise ModelLoadFailed(
            f"{config.name}: there is no model directory {directory}; nothing is downloaded when a model is loaded: "
            "install it from a gallery, or put its files there"
        )
    if not (directory / CONFIG).is_file():
        raise ModelLoadFailed(f"{config.name}: {directory} holds no {CONFIG}: it is no model in Hugging Face's layout")
    if not any(directory.rglob(WEIGHTS)) and not (allow_pickles and any(directory.rglob(PICKLED_WEIGHTS))):
        raise ModelLoadFailed(
            f"{config.name}: {directory} holds no {WEIGHTS} file; pickled weights (.bin) are not loaded, since they "
            "can run code: convert them with transformers' save_pretrained"
        )
    return directory


def is_cross_encoder(directory: Path) -> bool:
    """Whether the model reads query and document together: a sequence classifier. False where its config is missing."""
    return any(name.endswith("ForSequenceClassification") for name in read_config(directory).get("architectures") or [])


def read_config(directory: Path) -> dict[str, Any]:
    """The model's config.json; empty where there is none, or none that is JSON."""
    try:
        content = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
