"""Paths in the models directory: none leads out of it, and what is written appears whole or not at all."""

import os
from pathlib import Path, PurePosixPath

from deployments.errors import ConfigInvalid


def inside(models_path: Path, filename: str) -> Path:
    """Where `filename` is in the models directory. Raises ConfigInvalid when it leads out, by a symlink too."""
    parts = PurePosixPath(filename).parts
    path = models_path / filename
    if not parts or filename.startswith("/") or "\\" in filename or ".." in parts or not filename.isprintable():
        raise ConfigInvalid(f"{filename}: leads out of the models directory, or names no file in it")
    if any(part.startswith(".") for part in parts):
        raise ConfigInvalid(f"{filename}: hidden files in the models directory are the server's own")
    if any(len(part.encode()) > 200 for part in parts):
        raise ConfigInvalid(f"{filename}: the name is too long")
    if not path.resolve().is_relative_to(models_path.resolve()):
        raise ConfigInvalid(f"{filename}: leads out of the models directory")
    return path


def hidden(path: Path, suffix: str) -> Path:
    """The file beside `path` that the server does not take for a model: `.model.gguf.partial`."""
    return path.with_name(f".{path.name}{suffix}")


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole or not at all, and that is on the disk when this returns."""
    partial = hidden(path, ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.chmod(0o644)
    partial.replace(path)
