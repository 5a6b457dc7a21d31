"""A gallery's index and its base configs: what can be installed, in LocalAI's format (localai.md §3.1)."""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import yaml
from pydantic import TypeAdapter, ValidationError

from deployments.config_file import load_yaml
from deployments.errors import ConfigInvalid, ModelNotFound
from gallery.request import File
from gallery.sources.uri import local_name

log = logging.getLogger("manta.gallery")

STARTER = Path(__file__).parent.parent / "configs" / "gallery" / "starter.yaml"
"""The gallery that comes with Manta."""

_COERCE: Any = {"coerce_numbers_to_str": True}
"""`license: 4.0` is a text, as in Go."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One installable model. Keys of the index that are not here are left unread: other galleries have their own."""

    __pydantic_config__ = _COERCE

    name: str
    url: str = ""
    """Of its base config, which many entries share."""
    config_file: dict[str, Any] | None = None
    """The model's YAML, where there is no `url`."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """Merged onto the base config's or the entry's own YAML."""
    files: tuple[File, ...] = ()
    description: str = ""
    license: str = ""
    icon: str = ""
    urls: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt template: `<name>.tmpl` in the models directory."""

    __pydantic_config__ = _COERCE

    name: str
    content: str


@dataclass(frozen=True, slots=True)
class BaseConfig:
    """What an entry's `url` points to: a model's YAML with its files, which entries vary by their overrides."""

    __pydantic_config__ = _COERCE

    name: str = ""
    config_file: dict[str, Any] | None = None
    files: tuple[File, ...] = ()
    prompt_templates: tuple[Template, ...] = ()
    description: str = ""
    license: str = ""
    icon: str = ""
    urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Index:
    """What one index offers."""

    entries: list[Entry]
    problems: list[str]
    """One sentence for each entry that is left out."""


class Texts(Protocol):
    """The part of `gallery.sources.Sources` that reads."""

    async def text(self, uri: str) -> str: ...


_ENTRY = TypeAdapter(Entry)
_BASE = TypeAdapter(BaseConfig)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # PyYAML has no types
    """The fast loader, for indexes of megabytes. Reads dates as texts and 1e-5 as a number, as Go does."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


async def fetch_index(sources: Texts, url: str) -> Index:
    """The index at `url`. One that ends in `.ref` names the real one, a file beside it.

    Raises ConfigInvalid when it is no index, and what `sources` raises.
    """
    text = await sources.text(url)
    if local_name(url).endswith(".ref"):
        url = _beside(url, text.strip())
        text = await sources.text(url)
    return await asyncio.to_thread(read_index, text, url)


def read_index(text: str, source_name: str) -> Index:
    """An index; `source_name` is for messages. An entry that is wrong is left out, and the others stay.

    Raises ConfigInvalid when the whole is no list of entries.
    """
    try:
        document = yaml.load(text, Loader=_Loader)  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigInvalid(f"{source_name}: not YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return Index([], [])
    if not isinstance(document, list):
        raise ConfigInvalid(f"{source_name}: expected a list of models, got a {type(document).__name__}")
    entries, problems = [], []
    for i, raw in enumerate(document):
        name = raw["name"] if isinstance(raw, Mapping) and raw.get("name") else f"[{i}]"
        try:
            entries.append(_ENTRY.validate_python(_prepared(raw)))
        except ConfigInvalid as error:
            problems.append(f"{source_name}: {name}: {error.message}")
        except ValidationError as error:
            problems.append(f"{source_name}: {name}: {_first(error)}")
    for problem in problems:
        log.warning("left out of the gallery: %s", problem)
    return Index(entries, problems)


def read_base(text: str, source_name: str) -> BaseConfig:
    """A base config. Raises ConfigInvalid naming `source_name` and the key."""
    try:
        return _BASE.validate_python(_prepared(load_yaml(text)))
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{source_name}: {error.message}") from error
    except ValidationError as error:
        raise ConfigInvalid(f"{source_name}: {_first(error)}") from error


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


def _prepared(raw: Any) -> dict[str, Any]:
    """Without nulls, which are keys left unset, and with `config_file` as a mapping. Raises ConfigInvalid."""
    if not isinstance(raw, Mapping):
        raise ConfigInvalid(f"expected a mapping of keys such as `name:`, got a {type(raw).__name__}")
    values = {key: value for key, value in raw.items() if value is not None}
    if isinstance(config := values.get("config_file"), str):
        values["config_file"] = load_yaml(config)
    for i, file in enumerate(files if isinstance(files := values.get("files"), list) else []):
        if isinstance(file, Mapping) and not file.get("uri") and not file.get("parts"):
            raise ConfigInvalid(f"files.{i}: has no uri")
    return values


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"


def _beside(url: str, name: str) -> str:
    """The address of `name` in the folder of `url`, at the same revision."""
    if not name or "\n" in name:
        raise ConfigInvalid(f"{url}: expected the name of a file, got {name[:60]!r}")
    if "://" in name:
        return name
    before, found, after = url.rpartition(local_name(url))
    if not found:
        raise ConfigInvalid(f"{url}: the folder of this address is not clear")
    return f"{before}{name}{after.partition('?')[0]}"
