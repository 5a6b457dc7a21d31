"""Where a diffusion model's files are, and which pipeline they are for. Loads nothing."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.config import ModelConfig
from deployments.errors import ModelLoadFailed

INDEX = "model_index.json"
"""Names the pipeline's class and those of its parts."""
SAFE = ".safetensors"
PICKLES = (".ckpt", ".bin", ".pt", ".pth")


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A pipeline's directory, or one checkpoint file with the directory or YAML file that describes its parts."""

    directory: Path | None = None
    """Holds an INDEX; its weights too, where there is no checkpoint."""
    checkpoint: Path | None = None
    original_config: Path | None = None
    """The YAML file with which the model was trained, in place of a directory."""

    @property
    def pipeline_class(self) -> str | None:
        """What the INDEX says."""
        return _read_index(self.directory).get("_class_name") if self.directory else None

    @property
    def variant(self) -> str | None:
        """`fp16` where the directory has its weights in half precision alone: their names say so."""
        if self.directory is None or self.checkpoint is not None:
            return None
        names = [path.name for path in self.directory.glob(f"*/*{SAFE}")]
        return "fp16" if names and all(".fp16" in name for name in names) else None


def find_files(config: ModelConfig, models_path: Path, *, allow_pickles: bool) -> ModelFiles:
    """`parameters.model` is a folder or a file in the models directory. Nothing is downloaded.

    A checkpoint file needs the small files of a pipeline's directory (INDEX, tokenizers, the parts' config.json). They
    are looked for in `diffusers.original_config_file`, which may be a folder, in the folder of the checkpoint's name,
    and beside it. Raises ModelLoadFailed that says what is missing.
    """
    named = models_path / (config.parameters.model or config.name)
    if named.is_dir():
        return _of_directory(config, named, allow_pickles=allow_pickles)
    if not named.is_file():
        raise ModelLoadFailed(
            f"{config.name}: there is neither a directory nor a file {named}; nothing is downloaded when a model is "
            "loaded: install it from a gallery, or put its files there"
        )
    _refuse_pickle(config, named, allow_pickles=allow_pickles)
    described = config.diffusers.original_config_file
    if described and (models_path / described).is_file():
        return ModelFiles(checkpoint=named, original_config=models_path / described)
    places = [models_path / described] if described else [named.with_suffix(""), named.parent]
    for place in places:
        if (place / INDEX).is_file():
            return ModelFiles(directory=place, checkpoint=named)
    raise ModelLoadFailed(
        f"{config.name}: {named.name} is a checkpoint without a description of its parts: put {INDEX}, the tokenizers "
        f"and each part's config.json into {places[0]}, or name their folder as diffusers.original_config_file"
    )


def _of_directory(config: ModelConfig, directory: Path, *, allow_pickles: bool) -> ModelFiles:
    """A pipeline's parts in subfolders, or one checkpoint file beside their descriptions."""
    if not (directory / INDEX).is_file():
        raise ModelLoadFailed(f"{config.name}: {directory} holds no {INDEX}: it is no pipeline of diffusers")
    suffixes = (SAFE, *PICKLES) if allow_pickles else (SAFE,)
    if any(path.suffix in suffixes for path in directory.glob("*/*")):
        return ModelFiles(directory=directory)
    checkpoints = [path for path in sorted(directory.iterdir()) if path.suffix in suffixes]
    if len(checkpoints) == 1:
        return ModelFiles(directory=directory, checkpoint=checkpoints[0])
    if checkpoints:
        names = ", ".join(path.name for path in checkpoints)
        raise ModelLoadFailed(f"{config.name}: {directory} holds several checkpoints: name one of {names}")
    pickle = next((path for path in sorted(directory.rglob("*")) if path.suffix in PICKLES), None)
    if pickle is not None:
        _refuse_pickle(config, pickle, allow_pickles=allow_pickles)
    raise ModelLoadFailed(f"{config.name}: {directory} holds no {SAFE} file")


def _refuse_pickle(config: ModelConfig, path: Path, *, allow_pickles: bool) -> None:
    if path.suffix != SAFE and not allow_pickles:
        raise ModelLoadFailed(
            f"{config.name}: {path.name} is not {SAFE}; pickled weights can run code: convert them, or, if you trust "
            "them, set options: [allow_pickles:true]"
        )


def _read_index(directory: Path) -> dict[str, Any]:
    try:
        content = json.loads((directory / INDEX).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelLoadFailed(f"{directory / INDEX} is not JSON: {error}") from error
    return content if isinstance(content, dict) else {}
