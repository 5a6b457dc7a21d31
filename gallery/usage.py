"""Which installed models use which files of the models directory."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

from deployments.errors import ConfigInvalid
from gallery import records
from gallery.config_files import mentioned
from gallery.yaml_files import load_file

log = logging.getLogger("manta.gallery")

CLAIMS = "._install_*.json"
"""Journals of unfinished installations, which need their files too."""


class Usage:
    """A look at the models directory as it is now. Blocks; make a new one under the lock of the file in question."""

    def __init__(self, models_path: Path, *, but: str) -> None:
        """`but`: the model that asks, whose own use doesn't count."""
        self._models_path = models_path
        self._by_model = [
            *((record.name, set(record.paths())) for record in records.installed(models_path) if record.name != but),
            *((name, texts) for name, texts in _configured(models_path) if name != but),
            *((name, texts) for name, texts in _claimed(models_path) if name != but),
        ]

    def user_of(self, filename: str) -> str | None:
        """A model that uses the file, or a folder that it is in; None when there is none."""
        path = PurePosixPath(filename)
        names = {str(path), *(str(folder) for folder in path.parents if folder != PurePosixPath())}
        return next((model for model, texts in self._by_model if names & texts), None)

    def remove_empty_folders(self, filename: str) -> None:
        """Remove the folders that the file was in, as far as they are empty and nobody is about to fill them."""
        for folder in PurePosixPath(filename).parents:
            if folder == PurePosixPath() or self._needs(f"{folder}/"):
                return
            with suppress(OSError):  # not empty, or gone
                (self._models_path / folder).rmdir()

    def _needs(self, folder: str) -> bool:
        return any(text.startswith(folder) for _, texts in self._by_model for text in texts)


def configs(models_path: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every config in the models directory's YAML files, with its file; what is no YAML is left out.

    They are raw: the files of a model whose config the server refuses are still that model's.
    """
    for path in sorted(models_path.iterdir()) if models_path.is_dir() else []:
        if path.name.startswith(".") or path.suffix not in (".yaml", ".yml"):
            continue
        try:
            document = load_file(path)
        except (OSError, UnicodeDecodeError, ConfigInvalid) as error:
            log.warning("%s: its files are not known: %s", path, error)
            continue
        for config in document if isinstance(document, list) else [document]:
            if isinstance(config, Mapping):
                yield path, dict(config)


def _configured(models_path: Path) -> Iterator[tuple[str, set[str]]]:
    for path, config in configs(models_path):
        texts = {str(PurePosixPath(text)) for text in mentioned(config)} - {"."}
        yield str(config.get("name") or path.stem), {path.name, *texts}


def _claimed(models_path: Path) -> Iterator[tuple[str, set[str]]]:
    for path in models_path.glob(CLAIMS):
        try:
            journal = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:  # it was finished just now: its record counts
            continue
        yield journal["name"], {str(PurePosixPath(claim)) for claim in journal["claims"]}
