"""The installed models: config files and loose weights of the models directory, read again when they change."""

import hashlib
import json
import logging
import re
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

from deployments.backends.base import ModelCard
from deployments.backends.registry import for_file
from deployments.config import ModelConfig, ModelDefaults, tasks, with_defaults
from deployments.config_blocks import Parameters
from deployments.config_file import model_paths
from deployments.config_source import Source, read_source, take_aliases, take_configs
from deployments.scoring import scoring

log = logging.getLogger("manta.catalog")

_LATER_PART = re.compile(r"-(?!00001-)\d{5}-of-\d{5}\.gguf$")
"""Second and further files of weights that were split; the first stands for all."""


class Catalog:
    """Every installed model by name. `scan` may run in a thread: a new catalog takes the old one's place at once."""

    configs: dict[str, ModelConfig]
    """Runnable models, the server's defaults filled in: configured ones by name, then loose weights by name."""
    aliases: dict[str, str]
    """Further name → name in `configs`."""
    errors: dict[str, str]
    """Path of a file with refused configs → the file's name and what is wrong, by key."""

    def __init__(
        self,
        models_path: Path,
        defaults: ModelDefaults,
        config_file: Path | None = None,
        *,
        aliases_file: Path | None = None,
    ) -> None:
        """`config_file` holds further configs (LocalAI's CONFIG_FILE), `aliases_file` further names of models."""
        self._models_path = models_path
        self._defaults = defaults
        self._config_file = config_file
        self._aliases_file = aliases_file
        self._sources: dict[Path, Source] = {}
        self._loose: dict[str, int] = {}
        self._cards: list[ModelCard] = []
        self.configs, self.aliases, self.errors = {}, {}, {}

    def scan(self) -> bool:
        """Read what changed on disk. True when a model or an error came, changed or went."""
        written = _files(self._models_path)
        takes = {path: take_configs for path in written if path.suffix in (".yaml", ".yml")}
        takes |= {path: take_configs for path in [self._config_file] if path}
        takes |= {path: take_aliases for path in [self._aliases_file] if path}
        found = (read_source(path, self._sources.get(path), take) for path, take in takes.items())
        sources = {source.path: source for source in found if source}
        loose = {p.name: at for p, at in written.items() if for_file(p.name) and not _LATER_PART.search(p.name)}
        if sources == self._sources and loose.keys() == self._loose.keys():
            return False
        self._sources, self._loose = sources, loose
        self._rebuild()
        return True

    def cards(self) -> list[ModelCard]:
        """What the ingress shows and routes by: configured models and aliases by name, then loose weights."""
        return list(self._cards)

    def _rebuild(self) -> None:
        """Put together what the files hold."""
        problems = {path: list(source.problems) for path, source in self._sources.items()}
        configured = self._configured()
        models = {name: config for name, (config, _) in sorted(configured.items()) if config.alias is None}
        used = {path for config in models.values() for _, path in model_paths(config)}
        for name in sorted(self._loose.keys() - used - configured.keys()):
            models[name] = ModelConfig(name=name, backend=for_file(name), parameters=Parameters(model=name))

        aliases: dict[str, str] = {}
        for name, (config, source) in configured.items():
            if config.alias in models:
                aliases[name] = config.alias
            elif config.alias is not None:
                why = "is an alias itself" if config.alias in configured else "is not installed"
                problems[source.path].append(f'alias: expected the name of a model, but "{config.alias}" {why}')
        taken = configured.keys() | models.keys()
        for source in self._sources.values():
            found = {name: next((to for to in wanted if to in models), "") for name, wanted in source.aliases.items()}
            aliases |= {name: to for name, to in found.items() if to and name not in taken}

        self._report({str(path): f"{path.name}: {'; '.join(found)}" for path, found in problems.items() if found})
        self.configs = {name: with_defaults(config, self._defaults) for name, config in models.items()}
        self.aliases = aliases
        written = self._loose | {name: source.written for name, (_, source) in configured.items()}
        cards = {name: self._card(config, written[name], name not in configured) for name, config in models.items()}
        cards |= {name: replace(cards[to], name=name, alias_of=to, loose=False) for name, to in aliases.items()}
        self._cards = sorted(cards.values(), key=lambda card: (card.loose, card.name))

    def _configured(self) -> dict[str, tuple[ModelConfig, Source]]:
        """Configs by name, with their files. Of two with the same name the later file's holds."""
        configured: dict[str, tuple[ModelConfig, Source]] = {}
        for source in self._sources.values():
            for config in source.configs:
                if config.name in configured:
                    other = configured[config.name][1].path.name
                    log.warning("model %s of %s replaces that of %s", config.name, source.path.name, other)
                configured[config.name] = config, source
        return configured

    def _card(self, config: ModelConfig, written: int, loose: bool) -> ModelCard:
        return ModelCard(
            name=config.name,
            tasks=tasks(config),
            created=written,
            backend=config.backend or "",
            disabled=bool(config.disabled),
            loose=loose,
            scoring=scoring(config, self._models_path),
        )

    def _report(self, errors: dict[str, str]) -> None:
        for path, message in errors.items():
            if self.errors.get(path) != message:
                log.error("refused: %s", message)
        self.errors = errors


def spec_hash(config: ModelConfig) -> str:
    """The same for the same config in every process: a running application with another one is out of date."""
    text = json.dumps(asdict(config), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _files(folder: Path) -> dict[Path, int]:
    """Visible files directly in the folder, in the order of their names → when they were written, in Unix seconds."""
    files: dict[Path, int] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        if path.name.startswith(".") or not path.is_file():
            continue
        with suppress(FileNotFoundError):  # it went while we looked
            files[path] = int(path.stat().st_mtime)
    return files
