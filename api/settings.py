"""Every setting of the server, and where its value comes from. `python -m api.settings` prints the README's table."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
)
from pydantic.fields import FieldInfo

from api.environment import Env, Variable, spellings, unused, variables
from api.setting_types import Address, Amount, AutoWhole, Duration, Names, Secrets, Whole, parse_address
from deployments.config import ModelDefaults
from deployments.errors import ConfigInvalid

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = PROJECT / "configs" / "server.yaml"

LOG_LEVELS = {"error": "ERROR", "warn": "WARNING", "info": "INFO", "debug": "DEBUG", "trace": "DEBUG"}
"""LocalAI's level → logging's."""


# ---- settings --------------------------------------------------------------------------------------------------------

_SHIPPED = ModelDefaults()


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ModelSettings(_Section):
    """The block `models:`. What a model's own file leaves unset."""

    threads: Annotated[AutoWhole, Env(("THREADS",))] = _SHIPPED.threads
    """Threads of an engine; 0: half the cores."""
    context_size: Annotated[AutoWhole, Env(("CONTEXT_SIZE",))] = _SHIPPED.context_size
    """Tokens one request may use, prompt and output together; 0: what the model was trained for, at most 8,192."""
    f16: Annotated[bool | None, Env(("F16",))] = _SHIPPED.f16
    """LocalAI's switch for a half-precision KV cache."""
    parallel: Annotated[Whole, Field(ge=1), Env(("LLAMACPP_PARALLEL",))] = _SHIPPED.parallel or 32
    """Requests that a replica decodes together."""
    kv_cells: Annotated[AutoWhole, Env()] = _SHIPPED.kv_cells
    """KV-cache cells that a replica's requests share; 0: 4 times the context size."""
    min_replicas: Annotated[Whole, Env()] = _SHIPPED.min_replicas or 0
    """Replicas that stay; 0: the model is unloaded when idle."""
    max_replicas: Annotated[Whole, Field(ge=1), Env()] = _SHIPPED.max_replicas or 1
    """Replicas that load may add, one at a time."""
    num_cpus: Annotated[Amount, Env()] = _SHIPPED.num_cpus or 0.0
    """Ray's logical CPUs a replica reserves."""
    num_gpus: Annotated[Amount, Env()] = _SHIPPED.num_gpus or 0.0
    """GPUs a replica reserves; fractions share one."""
    target_ongoing_requests: Annotated[Amount | None, Env()] = _SHIPPED.target_ongoing_requests
    """Requests per replica that autoscaling aims at. Unset: as suits the model type."""
    max_queued_requests: Annotated[Whole | None, Env()] = _SHIPPED.max_queued_requests
    """Requests that may wait in a replica; the next is answered 429. Unset: no limit."""
    idle_timeout: Annotated[Duration, Env(("WATCHDOG_IDLE_TIMEOUT",))] = _SHIPPED.idle_timeout or 0.0
    """A model unused for so long is unloaded; 0: never."""
    load_timeout: Annotated[Duration, Env()] = _SHIPPED.load_timeout or 0.0
    """A load that takes longer has failed."""


class Settings(_Section):
    """The server's settings, checked. Paths are absolute. Picklable."""

    address: Annotated[Address, Env(("ADDRESS",))] = "127.0.0.1:8080"
    """Where the server listens; `:8080` is every interface."""
    models_path: Annotated[Path, Env(("MODELS_PATH",))] = Path("models")
    """Model configs and weights."""
    data_path: Annotated[Path, Env(("LOCALAI_DATA_PATH",))] = Path("data")
    """All state of the server."""
    models_config_file: Annotated[Path | None, Env(("MODELS_CONFIG_FILE", "CONFIG_FILE"))] = None
    """A YAML list of model configs, beside those in `models_path`."""
    starter_model: Annotated[str, Env(keep_empty=True)] = "smollm2-135m-instruct"
    """Installed on the first start, when there is no model; empty: none."""

    api_keys: Annotated[Secrets, Env(("API_KEY",))] = ()
    """Keys that clients must send, comma-separated. None: open to all."""
    api_key_file: Annotated[Path | None, Env()] = None
    """A file of more keys, one a line."""
    cors: Annotated[bool, Env(("CORS",))] = False
    """Let pages of other sites call the server from a browser."""
    cors_allow_origins: Annotated[Names, Env(("CORS_ALLOW_ORIGINS",))] = ()
    """Those sites, comma-separated; empty: every one."""

    json_limit_mb: Annotated[Whole, Env()] = 20
    """Largest JSON body, MiB."""
    image_limit_mb: Annotated[Whole, Env()] = 50
    """Largest image upload, MiB."""
    audio_limit_mb: Annotated[Whole, Env()] = 1024
    """Largest audio upload, MiB."""
    upload_limit_mb: Annotated[Whole, Env(("UPLOAD_LIMIT",))] = 512
    """Largest file upload, MiB."""

    request_timeout: Annotated[Duration, Field(gt=0), Env()] = 600.0
    """A request ends with an error after so long, waiting for its model included."""
    keepalive: Annotated[Duration, Field(gt=0), Env()] = 5.0
    """A stream that is quiet for so long sends a comment, so that no proxy cuts it."""
    ingress_replicas: Annotated[Whole, Field(ge=1), Env()] = 2
    """Processes that serve HTTP."""
    log_level: Annotated[Literal["error", "warn", "info", "debug", "trace"], Env(("LOCALAI_LOG_LEVEL",))] = "info"
    """error, warn, info, debug or trace."""
    debug: Annotated[bool, Env(("DEBUG",))] = False
    """The same as `log_level: debug`."""

    preload: Annotated[Names, Env(("LOAD_TO_MEMORY",))] = ()
    """Models loaded at the start, comma-separated."""
    max_active_models: Annotated[Whole, Env(("MAX_ACTIVE_BACKENDS",))] = 0
    """Models loaded at once; the least recently used goes first. 0: as many as fit."""
    single_active_backend: Annotated[bool, Env(("SINGLE_ACTIVE_BACKEND",))] = False
    """The same as `max_active_models: 1`."""
    watchdog_idle: Annotated[bool | None, Env(("WATCHDOG_IDLE",))] = None
    """False: no model is unloaded for being idle, whatever `models.idle_timeout` says."""
    load_failure_cooldown: Annotated[Duration, Env(("MODEL_LOAD_FAILURE_COOLDOWN",))] = 10.0
    """A model that failed to load is not tried again for so long; it doubles with each failure."""
    load_failure_cooldown_max: Annotated[Duration, Env()] = 300.0
    """Where that doubling ends."""

    models: ModelSettings = ModelSettings()

    _origin: dict[str, str] = PrivateAttr(default_factory=dict)
    _warnings: tuple[str, ...] = PrivateAttr(default=())

    @property
    def origin(self) -> Mapping[str, str]:
        """Setting (`models.threads` for nested ones) → where its value came from; absent: its default."""
        return self._origin

    @property
    def host(self) -> str:
        return parse_address(self.address)[0]

    @property
    def port(self) -> int:
        return parse_address(self.address)[1]

    @property
    def logging_level(self) -> str:
        """As `logging` names it."""
        return "DEBUG" if self.debug else LOG_LEVELS[self.log_level]

    @property
    def active_models_limit(self) -> int:
        """How many models may be loaded at once; 0: as many as fit."""
        return 1 if self.single_active_backend else self.max_active_models

    def model_defaults(self) -> ModelDefaults:
        """What model configs fall back on."""
        values = self.models.model_dump()
        if self.watchdog_idle is False:
            values["idle_timeout"] = 0.0
        return ModelDefaults(**values)

    def sourced(self, origin: Mapping[str, str], warnings: Iterable[str]) -> Self:
        """These settings, told where they came from."""
        self._origin, self._warnings = dict(origin), tuple(warnings)
        return self

    def log_origins(self) -> None:
        """Log where each setting came from (never its value: it may be a key), and what was set in vain."""
        log.info("settings", extra={"origin": dict(sorted(self._origin.items()))})
        for warning in self._warnings:
            log.warning(warning)


# ---- load ------------------------------------------------------------------------------------------------------------


def load_settings(
    config_path: Path | None = None, env: Mapping[str, str] | None = None, directory: Path | None = None
) -> Settings:
    """Settings from the environment, then .env files, then the YAML file, then the defaults.

    `config_path` defaults to `MANTA_CONFIG`, then `configs/server.yaml`; `env` to the process's; relative paths and
    .env files are looked up in `directory`, by default the working directory.
    Raises ConfigInvalid that names file or variable, key and fix.
    """
    directory = (directory or Path.cwd()).absolute()
    found = variables(os.environ if env is None else env, directory)
    values, origin = _from_file(_config_path(config_path, found, directory))
    for key, variable in _from_environment(found):
        *section, name = key.split(".")
        (values.setdefault(section[0], {}) if section else values)[name] = variable.value
        origin[key] = f"{variable.name} ({variable.source})"
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigInvalid("; ".join(_sentences(error, origin))) from None  # its text may hold a key
    settings = _with_paths(settings, directory)
    in_vain = [f"{item.name} ({item.source}) is accepted and changes nothing: {why}" for item, why in unused(found)]
    return settings.sourced(origin, in_vain)


def table() -> str:
    """Every setting as a Markdown table, for the README."""
    rows = ["| setting | environment | default | meaning |", "|---|---|---|---|"]
    for key, field in _fields():
        names = ", ".join(f"`{name}`" for name in spellings(key.split(".")[-1], _env(field)))
        rows.append(f"| `{key}` | {names} | {_shown(field.get_default())} | {field.description or ''} |")
    return "\n".join(rows)


def _shown(default: object) -> str:
    if default is None or default == ():
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default)


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    """Each setting's dotted key and field."""
    for name, field in Settings.model_fields.items():
        if name != "models":
            yield name, field
    for name, field in ModelSettings.model_fields.items():
        yield f"models.{name}", field


def _env(field: FieldInfo) -> Env:
    return next(item for item in field.metadata if isinstance(item, Env))


def _config_path(given: Path | None, found: Mapping[str, Variable], directory: Path) -> Path | None:
    """The file to read. One that somebody named must exist."""
    named = given or (Path(found["MANTA_CONFIG"].value) if "MANTA_CONFIG" in found else None)
    if named is None:
        return DEFAULT_CONFIG if DEFAULT_CONFIG.is_file() else None
    path = directory / named
    if not path.is_file():
        raise ConfigInvalid(f"{path}: no such file; name an existing one in MANTA_CONFIG, or unset it")
    return path


def _from_file(path: Path | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Raw values of the YAML file and where each stands."""
    if path is None:
        return {}, {}
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigInvalid(f"{path}: expected a mapping of settings such as `json_limit_mb: 20`")
    values = {str(key): value for key, value in values.items() if value is not None}
    origin = {key: str(path) for key in values if key != "models"}
    if isinstance(values.get("models"), dict):
        origin |= {f"models.{key}": str(path) for key in values["models"]}
    elif "models" in values:
        raise ConfigInvalid(f"{path}: models: expected a mapping such as `models: {{threads: 4}}`")
    return values, origin


def _from_environment(found: Mapping[str, Variable]) -> Iterator[tuple[str, Variable]]:
    for key, field in _fields():
        env = _env(field)
        for spelling in spellings(key.split(".")[-1], env):
            variable = found.get(spelling)
            if variable and (variable.value or env.keep_empty):
                yield key, variable
                break


def _with_paths(settings: Settings, directory: Path) -> Settings:
    """Paths made absolute, and the keys of `api_key_file` added."""
    paths = {
        name: directory / value.expanduser()
        for name in Settings.model_fields
        if isinstance(value := getattr(settings, name), Path)
    }
    keys = settings.api_keys
    if key_file := paths.get("api_key_file"):
        try:
            lines = key_file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise ConfigInvalid(f"{key_file}: api_key_file: {error.strerror}; write one key a line there") from error
        keys += tuple(SecretStr(line.strip()) for line in lines if line.strip() and not line.startswith("#"))
    return settings.model_copy(update={**paths, "api_keys": keys})


def _sentences(error: ValidationError, origin: Mapping[str, str]) -> Iterator[str]:
    """One sentence per mistake: where it stands, the key, and what was expected. Never the value: it may be a key."""
    known = [key for key, _ in _fields()]
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        key = next((k for k in (".".join(map(str, mistake["loc"][:n])) for n in (2, 1)) if k in origin), "")
        where = f"{origin.get(key, 'settings')}: {key or '.'.join(map(str, mistake['loc']))}"
        if mistake["type"] == "extra_forbidden":
            close = get_close_matches(key, known, n=1)
            yield f"{where}: no such setting" + (f"; did you mean {close[0]}?" if close else "; remove it")
            continue
        yield f"{where}: {mistake['msg'].removeprefix('Value error, ')}"


if __name__ == "__main__":
    print(table())  # noqa: T201
