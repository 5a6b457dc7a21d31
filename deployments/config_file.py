"""From YAML text to checked ModelConfigs. Every refusal is a ConfigInvalid that names the key and what it should be."""

import difflib
import json
import re
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Any, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from deployments.config import USECASES, ModelConfig
from deployments.errors import ConfigInvalid
from deployments.text.reasoning import FORMATS as REASONING_FORMATS
from deployments.text.reasoning import OFF
from deployments.text.tool_formats import format_for

_BACKEND = re.compile(r"[a-zA-Z0-9-_.]+")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

_DURATIONS = ("idle_timeout", "load_timeout")
_ZERO_IS_UNSET = ("context_size", "threads")  # so says LocalAI

_AT_LEAST: dict[str, float] = {
    "context_size": 1,
    "idle_timeout": 0,
    "kv_cells": 1,
    "load_timeout": 0,
    "max_queued_requests": -1,
    "max_replicas": 1,
    "min_replicas": 0,
    "num_cpus": 0,
    "num_gpus": 0,
    "parallel": 1,
    "threads": 1,
}

_EXPECTED: dict[str, str] = {
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "float_type": "a number",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "list_type": "a list",
    "string_type": "a text",
}
"""pydantic's error types → what the value should have been."""


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML has no types
    """SafeLoader with Go's reading of dates (texts) and 1e-5 (a number), which refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                problem = f"the key {key.value!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep=deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_yaml(text: str) -> Any:
    """The document as plain values; `!!merge <<:` works like `<<:`. Raises ConfigInvalid with line and column."""
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 (it is a SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigInvalid(f"not YAML: {' '.join(str(error).split())}") from error


def parse(raw: Any) -> ModelConfig:
    """One raw config, checked. Raises ConfigInvalid that names every wrong key."""
    if not isinstance(raw, Mapping):
        raise ConfigInvalid(f"expected a mapping of keys such as `name:`, got {_shown(raw)}")
    values = _without_nulls(raw, ModelConfig)
    for key in _DURATIONS:
        if isinstance(values.get(key), str):
            values[key] = seconds(values[key], key)
    for key in _ZERO_IS_UNSET:
        if values.get(key) == 0:
            del values[key]
    try:
        # By way of JSON: there alone does pydantic's strict mode make dataclasses from mappings.
        config = _adapter().validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        raise ConfigInvalid("; ".join(_sentences(error))) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigInvalid(f"holds a value that is no text, number, list or mapping: {error}") from error
    if problems := [problem for check in _CHECKS for problem in check(config)]:
        raise ConfigInvalid("; ".join(problems))
    return config


def seconds(text: str, key: str) -> float:
    """Seconds of a duration like "15m", "1h30m", "500ms" or "90"; `key` is for the error."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not text or _DURATION.sub("", text):
        raise ConfigInvalid(f'{key}: expected seconds or a duration such as "15m" or "1h30m", got {_shown(text)}')
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


@cache
def _adapter() -> TypeAdapter[ModelConfig]:
    return TypeAdapter(ModelConfig)


@cache
def _blocks(cls: type) -> dict[str, type]:
    """Fields that hold a nested dataclass."""
    return {name: hint for name, hint in get_type_hints(cls).items() if isinstance(hint, type) and is_dataclass(hint)}


def _without_nulls(raw: Mapping[str, Any], cls: type) -> dict[str, Any]:
    """A field without a value is unset, as in Go. In free-form mappings null is a value like any other."""
    blocks = _blocks(cls)
    return {
        key: _without_nulls(value, blocks[key]) if key in blocks and isinstance(value, Mapping) else value
        for key, value in raw.items()
        if value is not None
    }


# ---- what is wrong, in words -----------------------------------------------------------------------------------------


def _sentences(error: ValidationError) -> Iterator[str]:
    """One sentence per key: a union reports each of its members, which are joined."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        by_key.setdefault(_key(detail["loc"]), []).append(detail)
    for key, details in by_key.items():
        first = details[0]
        match first["type"]:
            case "missing":
                yield f"{key}: is missing"
            case "unexpected_keyword_argument":
                yield f"{key}: unknown key{_suggestion(first['loc'])}"
            case _:
                expected = (_EXPECTED.get(d["type"]) or d["msg"].removeprefix("Input should be ") for d in details)
                yield f"{key}: expected {' or '.join(dict.fromkeys(expected))}, got {_shown(first['input'])}"


def _key(location: tuple[int | str, ...]) -> str:
    """`parameters.top_k`, `stopwords[2]`: pydantic's location without its names for union members."""
    parts = (part for part in location if part not in ("int", "str", "bool", "[key]") and "literal[" not in str(part))
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).removeprefix(".")


def _suggestion(location: tuple[int | str, ...]) -> str:
    """The same name elsewhere (`temperature` belongs under `parameters`), else one like it in the same place."""
    name, place = str(location[-1]), _key(location[:-1])
    known = list(_known_keys(ModelConfig))
    siblings = [key.removeprefix(f"{place}.") for key in known if key.rpartition(".")[0] == place]
    elsewhere = [key for key in known if key.rpartition(".")[2] == name]
    close = elsewhere or difflib.get_close_matches(name, siblings, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _known_keys(cls: type, prefix: str = "") -> Iterator[str]:
    blocks = _blocks(cls)
    for item in fields(cls):
        yield f"{prefix}{item.name}"
        if block := blocks.get(item.name):
            yield from _known_keys(block, f"{prefix}{item.name}.")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


# ---- what types can't say: a generator of problems each --------------------------------------------------------------


def _names(config: ModelConfig) -> Iterator[str]:
    if not config.name.strip():
        yield "name: must not be empty"
    if config.backend is not None and not _BACKEND.fullmatch(config.backend):
        yield f"backend: expected letters, digits, - and _, got {_shown(config.backend)}"
    for usecase in config.known_usecases or []:
        if usecase.lower() not in USECASES:
            yield f"known_usecases: expected {', '.join(USECASES)}; got {_shown(usecase)}"


def _ranges(config: ModelConfig) -> Iterator[str]:
    for key, least in _AT_LEAST.items():
        value = getattr(config, key)
        if value is not None and value < least:
            yield f"{key}: expected at least {least}, got {value}"
    if config.max_replicas is not None and (config.min_replicas or 0) > config.max_replicas:
        yield f"min_replicas: expected at most max_replicas ({config.max_replicas}), got {config.min_replicas}"


def _formats(config: ModelConfig) -> Iterator[str]:
    if config.reasoning_format not in (None, OFF, *REASONING_FORMATS):
        yield f"reasoning_format: expected {OFF}, {', '.join(REASONING_FORMATS)}; got {_shown(config.reasoning_format)}"
    try:
        format_for(config, None)
    except ConfigInvalid as error:
        yield error.message


def _patterns(config: ModelConfig) -> Iterator[str]:
    named = {"cutstrings": config.cutstrings, "extract_regex": config.extract_regex}
    for key, i, pattern in ((key, i, one) for key, value in named.items() for i, one in enumerate(value or [])):
        try:
            re.compile(pattern)
        except re.error as error:
            yield f"{key}[{i}]: expected a regular expression, got {_shown(pattern)} ({error})"


def _paths(config: ModelConfig) -> Iterator[str]:
    for key, path in model_paths(config):
        if path.startswith(("/", "\\")) or ".." in PurePosixPath(path.replace("\\", "/")).parts:
            yield f"{key}: expected a path inside the models directory, got {_shown(path)}"


_CHECKS = (_names, _ranges, _patterns, _formats, _paths)


def model_paths(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Key and value of every field that is a path under the models directory."""
    named = {
        "parameters.model": config.parameters.model,
        "parameters.tokenizer": config.parameters.tokenizer,
        "mmproj": config.mmproj,
        "draft_model": config.draft_model,
        "lora_adapter": config.lora_adapter,
        "lora_base": config.lora_base,
        "prompt_cache_path": config.prompt_cache_path,
    }
    yield from ((key, path) for key, path in named.items() if path is not None)
    yield from ((f"lora_adapters[{i}]", path) for i, path in enumerate(config.lora_adapters or []))
    yield from ((f"download_files[{i}].filename", file.filename) for i, file in enumerate(config.download_files or []))
