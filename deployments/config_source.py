"""One file of configs or aliases, as it was last read, with what is wrong in it."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from deployments.backends.registry import BACKENDS, for_file, lookup
from deployments.config import ModelConfig, unserved
from deployments.config_file import load_yaml, parse
from deployments.config_unused import UNUSED, used_unused
from deployments.errors import ConfigInvalid

log = logging.getLogger("manta.catalog")


@dataclass(slots=True)
class Source:
    """What one file holds. A config that is refused leaves a problem behind and the others of its file alone."""

    path: Path
    version: tuple[int, int] | None
    """Its mtime in ns and its size; None: it couldn't be read, and is tried again at each scan."""
    configs: list[ModelConfig] = field(default_factory=list)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Name → the models that it may stand for; the first that is installed."""
    unused: dict[str, str] = field(default_factory=dict)
    """What is accepted and not used → why."""
    problems: list[str] = field(default_factory=list)

    @property
    def written(self) -> int:
        """Unix seconds."""
        return self.version[0] // 1_000_000_000 if self.version else 0


Take = Callable[[Source, Any], None]
"""Fills a Source from its YAML document; may raise ConfigInvalid."""


def read_source(path: Path, known: Source | None, take: Take) -> Source | None:
    """The file as it is now: `known` where it hasn't changed, None when it is gone."""
    try:
        stat = path.stat()
        version = (stat.st_mtime_ns, stat.st_size)  # before the text: a later change is then seen by the next scan
        if known and known.version == version:
            return known
        text = path.read_text("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        return Source(path, None, problems=[f"can't be read: {error}"])
    source = Source(path, version)
    try:
        take(source, load_yaml(text))
    except ConfigInvalid as error:
        source.problems.append(error.message)
    for key, reason in source.unused.items():
        if known is None or key not in known.unused:
            log.warning("%s: %s is accepted and not used: %s", path.name, key, reason)
    return source


def take_configs(source: Source, document: Any) -> None:
    """One config, or a list of them."""
    raws = document if isinstance(document, list) else [document]
    for i, raw in enumerate(raws):
        try:
            config = _with_backend(parse(raw))
        except ConfigInvalid as error:
            source.problems.append(f"[{i}] {error.message}" if isinstance(document, list) else error.message)
        else:
            source.configs.append(config)
            source.unused |= {key: UNUSED[key] for key in used_unused(raw)}
            source.unused |= {f"known_usecases {usecase}": why for usecase, why in unserved(config).items()}


def take_aliases(source: Source, document: Any) -> None:
    """A mapping of name to model name, or to several."""
    if document is None:
        return
    if not isinstance(document, Mapping):
        raise ConfigInvalid("expected a mapping such as `gpt-4: my-model`")
    for name, target in document.items():
        targets = target if isinstance(target, list) else [target]
        if isinstance(name, str) and targets and all(isinstance(one, str) for one in targets):
            source.aliases[name] = tuple(targets)
        else:
            source.problems.append(f"{name}: expected the name of a model, or a list of names, got {target!r}")


def _with_backend(config: ModelConfig) -> ModelConfig:
    """The backend checked, or guessed from the weights' file name."""
    if config.alias is not None:
        return config
    model = config.parameters.model or ""
    name = config.backend or for_file(model)
    if name is None:
        backends = ", ".join(sorted(BACKENDS))
        hint = f'parameters.model "{model}" does not tell which' if model else "so is parameters.model"
        raise ConfigInvalid(f"backend: is missing, and {hint}; backends are: {backends}")
    if lookup(name).suffixes and not model:
        raise ConfigInvalid(f"parameters.model: is missing; backend {name} needs a weights file")
    return replace(config, backend=name)
