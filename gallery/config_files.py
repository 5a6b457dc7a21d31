"""The files that a model's raw YAML names, and those that it wants fetched."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

from gallery.request import File
from gallery.settings import ALL_SCHEMES
from gallery.sources.uri import local_name

PATHS = ("parameters.model", "mmproj", "draft_model", "lora_adapter", "lora_base", "lora_adapters")
"""Keys that hold a path in the models directory, or a list of them; an address there is fetched."""

_ADDRESS = re.compile(rf"(?:{'|'.join(ALL_SCHEMES)})://.|github:.", re.IGNORECASE)


def named_files(config: Mapping[str, Any]) -> list[str]:
    """Paths that the config gives as the model's own: weights, and templates as `.tmpl` files."""
    paths = [value for _, _, value in _values(config)]
    paths += [file["filename"] for file in _downloads(config)]
    paths += _templates(config)
    return [path for path in dict.fromkeys(paths) if path.strip("/ .") and not _ADDRESS.match(path)]


def mentioned(config: Mapping[str, Any]) -> frozenset[str]:
    """Every text in the config, and its templates' files: if one is a file's path, the model may need that file."""
    return frozenset((*_texts(config), *_templates(config)))


def with_local_files(config: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[File, ...]]:
    """The config with file names in place of addresses, and the files to fetch, `download_files` among them.

    LocalAI fetches these when it starts. Raises ConfigInvalid for an address that names no file.
    """
    local = copy.deepcopy(dict(config))
    files = [File(file["filename"], file["uri"], file.get("sha256") or "") for file in _downloads(config)]
    known = {file.filename for file in files}
    for block, key, value in list(_values(local)):
        if not _ADDRESS.match(value):
            continue
        name = local_name(value)
        block[key] = name
        if name not in known:
            known.add(name)
            files.append(File(name, value))
    return local, tuple(files)


def _values(config: Mapping[str, Any]) -> Iterator[tuple[Any, Any, str]]:
    """Each text under PATHS: the mapping or list that holds it, the key or index there, and the text."""
    for path in PATHS:
        *blocks, key = path.split(".")
        block: Any = config
        for name in blocks:
            block = block.get(name) if isinstance(block, Mapping) else None
        value = block.get(key) if isinstance(block, Mapping) else None
        if isinstance(value, str) and value:
            yield block, key, value
        elif isinstance(value, list):
            yield from ((value, i, item) for i, item in enumerate(value) if isinstance(item, str) and item)


def _templates(config: Mapping[str, Any]) -> list[str]:
    """Files that hold its prompt templates, as in LocalAI: those it names, and the one named after its weights."""
    named = [value for value in _texts(config.get("template")) if "\n" not in value and "{" not in value]
    return [f"{name}.tmpl" for name in (*named, *(value for _, key, value in _values(config) if key == "model"))]


def _downloads(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Entries of `download_files` that are well formed; the others the server refuses."""
    files = config.get("download_files")
    return [
        file
        for file in (files if isinstance(files, list) else [])
        if isinstance(file, Mapping) and isinstance(file.get("filename"), str) and isinstance(file.get("uri"), str)
    ]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
