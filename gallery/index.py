"""A gallery's index: a YAML list of installable models, in LocalAI's format (localai.md §3.1)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from deployments.errors import ConfigInvalid, ModelNotFound

STARTER = Path(__file__).parent.parent / "configs" / "gallery" / "starter.yaml"
"""The gallery that comes with Manta."""


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model."""

    filename: str
    """Where it goes, relative to the models directory."""
    uri: str
    sha256: str = ""
    """Of the file, in hex. Empty: not checked."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One installable model. Keys of the index that are not here are left unread: other galleries have their own."""

    name: str
    config_file: dict[str, Any]
    """The model's YAML, as it will be written, but for its name."""
    files: list[File] = field(default_factory=list)
    overrides: dict[str, Any] = field(default_factory=dict)
    """Merged onto `config_file`: nested maps merge, everything else is replaced."""
    description: str = ""
    license: str = ""
    icon: str = ""
    urls: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    def config(self) -> dict[str, Any]:
        """The model's YAML, complete."""
        return {"name": self.name, **merge(self.config_file, self.overrides)}


_ENTRIES = TypeAdapter(list[Entry])


def read(path: Path) -> list[Entry]:
    """The entries of an index file. Raises ConfigInvalid with the file and the place in it."""
    try:
        return _ENTRIES.validate_python(yaml.safe_load(path.read_text(encoding="utf-8")) or [])
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        raise ConfigInvalid(f"{path}: not YAML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ConfigInvalid(f"{path}: {place}: {first['msg']}") from error


def find(entries: Iterable[Entry], name: str) -> Entry:
    """The first entry of this name, in any case. Raises ModelNotFound."""
    for entry in entries:
        if entry.name.lower() == name.lower():
            return entry
    raise ModelNotFound(f"no model found with name {name!r} in the gallery")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`: nested maps merge, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
