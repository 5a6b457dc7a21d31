"""What a client asks the gallery for. Standard-library dataclasses: they cross to the gallery's process."""

import re
from dataclasses import asdict, dataclass, field
from typing import Any, Self

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://.|github:.|(?:[\w-]+\.)+[a-z]{2,}(?::\d+)?/.", re.IGNORECASE)
"""A scheme, or a host with a path such as `hf.co/owner/repo`. Names may have colons: `llama-3.1-8b-instruct:q4_k_m`."""


def is_address(text: str) -> bool:
    """Is it a URI, rather than the name of a model in a gallery?"""
    return _ADDRESS.match(text) is not None


@dataclass(frozen=True, slots=True)
class File:
    """One file of a model."""

    filename: str
    """Where it goes, relative to the models directory. An archive is unpacked there."""
    uri: str = ""
    sha256: str = ""
    """Of the whole file, in hex. Empty: not checked, unless the source knows it."""
    parts: tuple[str, ...] = ()
    """URIs of the pieces that make the file, in order, in place of `uri`."""


@dataclass(frozen=True, slots=True)
class InstallRequest:
    """`POST /models/apply`. Of `id`, `config_url`, `url` and `config_file` the first that is set decides."""

    id: str = ""
    """Name in a gallery: `name` or `gallery@name`."""
    config_url: str = ""
    """Of a model's YAML."""
    url: str = ""
    """Of a gallery's base config."""
    config_file: dict[str, Any] | None = None
    """A model's YAML."""
    name: str = ""
    """To install it by; empty: the name it has."""
    overrides: dict[str, Any] = field(default_factory=dict)
    files: tuple[File, ...] = ()
    """In addition to the model's own."""
    weights_uri: str = ""
    """Of `POST /models/import-uri`: weights, or a YAML, by their address alone."""
    description: str = ""
    license: str = ""
    icon: str = ""
    urls: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        files = tuple(File(**{**file, "parts": tuple(file["parts"])}) for file in values["files"])
        return cls(**{**values, "files": files, "urls": tuple(values["urls"]), "tags": tuple(values["tags"])})
