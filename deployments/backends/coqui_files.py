"""The files of a Coqui model: where they are, and a config that names them where they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from TTS.config import load_config

from deployments.config import ModelConfig
from deployments.errors import ModelLoadFailed

CONFIG = "config.json"
CHECKPOINTS = ("model.pth", "model_file.pth", "best_model.pth", "best_model.pth.tar", "model_file.pth.tar")
"""Names that Coqui gives to a model's weights. A directory with one `.pth` file of another name is fine too."""

PATHS = {
    "speakers_file": ("speaker_ids.json", "speaker_ids.pth", "speakers.pth"),
    "speaker_file": (),
    "d_vector_file": ("speakers.json", "speakers.pth"),
    "language_ids_file": ("language_ids.json",),
    "speaker_encoder_model_path": ("model_se.pth", "model_se.pth.tar"),
    "speaker_encoder_config_path": ("config_se.json",),
}
"""Fields of a config that name a file of the machine where the model was trained → what that file is called else
(TTS/utils/manage.py, `_update_paths`)."""

ONLINE = {"bark": "Bark", "tortoise": "Tortoise"}
"""Architectures that fetch parts of themselves when they are loaded."""


def find_directory(config: ModelConfig, models_path: Path) -> Path:
    """`parameters.model` is a folder in the models directory, or a file in it. Raises ModelLoadFailed."""
    named = models_path / (config.parameters.model or config.name)
    directory = named.parent if named.is_file() else named
    if not (directory / CONFIG).is_file():
        raise ModelLoadFailed(f"{config.name}: there is no Coqui model {directory}: no {CONFIG} in it")
    return directory


def find_checkpoint(config: ModelConfig, models_path: Path, directory: Path) -> Path:
    """The weights. Raises ModelLoadFailed."""
    named = models_path / (config.parameters.model or config.name)
    if named.is_file() and named.name != CONFIG:
        return named
    if known := next((directory / name for name in CHECKPOINTS if (directory / name).is_file()), None):
        return known
    files = sorted(directory.glob("*.pth"))
    if len(files) != 1:
        raise ModelLoadFailed(
            f"{config.name}: {directory} holds {len(files)} checkpoints (.pth); name one in parameters.model"
        )
    return files[0]


def read_config(config: ModelConfig, directory: Path) -> Any:
    """The model's own config, its paths leading into `directory`.

    Raises ModelLoadFailed for what would be fetched from the network, or be unpickled without limits.
    """
    own: Any = load_config(directory / CONFIG)
    if own.model in ONLINE:
        raise ModelLoadFailed(f"{config.name}: {ONLINE[own.model]} fetches parts of itself at load, which is not done")
    for part in (own, own.get("model_args")):
        for field, others in PATHS.items():
            if part is None or field not in part or not part[field]:
                continue
            listed = isinstance(part[field], list)
            path = _local(config, directory, str(part[field][0] if listed else part[field]), others)
            part[field] = [path] if listed else path
    if own.audio.get("stats_path"):
        if not config.trust_remote_code:
            raise ModelLoadFailed(
                f"{config.name}: audio.stats_path of its {CONFIG} names a pickle, which can run code; "
                "to load it, set trust_remote_code: true"
            )
        own.audio.stats_path = _local(config, directory, own.audio.stats_path, ("scale_stats.npy",))
    return own


def _local(config: ModelConfig, directory: Path, path: str, others: tuple[str, ...]) -> str:
    """The file of that name in the directory, or of another name that it may have."""
    for candidate in _candidates(directory, path, others):
        if candidate.is_file():
            return str(candidate)
    raise ModelLoadFailed(f'{config.name}: {directory} lacks the file "{Path(path).name}" that its {CONFIG} names')


def _candidates(directory: Path, path: str, others: tuple[str, ...]) -> Iterator[Path]:
    yield directory / Path(path).name
    yield directory / path
    for name in others:
        yield directory / name
