"""Every setting of the server, and where its value comes from. `python -m api.settings` prints the README's table."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from api.environment import Env, Variable, spellings, unused, variables
from api.gallery_settings import GalleryBlock
from api.keys import KeyRow, Role, known_by_digest
from api.model_settings import ModelSettings
from api.preload import install_requests
from api.setting_types import (
    Address,
    BlobLocation,
    Duration,
    JSONList,
    Names,
    Networks,
    Secrets,
    Section,
    WebAddress,
    Whole,
    parse_address,
)
from deployments.config import ModelDefaults
from deployments.errors import ConfigInvalid
from gallery.blobs import BlobSettings
from gallery.settings import GallerySettings

log = logging.getLogger(__name__)

PROJECT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = PROJECT / "configs" / "server.yaml"

LOG_LEVELS = {"error": "ERROR", "warn": "WARNING", "info": "INFO", "debug": "DEBUG", "trace": "DEBUG"}
"""LocalAI's level → logging's."""


# ---- settings --------------------------------------------------------------------------------------------------------


class Settings(Section):
    """The server's settings, checked. Paths are absolute. Picklable."""

    address: Annotated[Address, Env(("ADDRESS",))] = "127.0.0.1:8080"
    """Where the server listens; `:8080` is every interface."""
    models_path: Annotated[Path, Env(("MODELS_PATH",))] = Path("models")
    """Model configs and weights."""
    data_path: Annotated[Path, Env(("LOCALAI_DATA_PATH",))] = Path("data")
    """All state of the server."""
    database_url: Annotated[SecretStr, Env()] = SecretStr("")
    """Where all records are kept: `postgresql://user:password@host/database`; empty: SQLite in `data_path`."""
    blobs: Annotated[BlobLocation | None, Env(("GENERATED_CONTENT_PATH",))] = None
    """Where generated files are kept: a folder, or `s3://bucket/prefix`. Unset: `blobs` in `data_path`."""
    generated_ttl: Annotated[Duration, Env()] = 3600.0
    """A generated file that was answered as a URL is removed after so long; 0: never, as LocalAI does."""
    uploads: Annotated[BlobLocation | None, Env(("UPLOAD_PATH",))] = None
    """Where uploaded files are kept: a folder, or `s3://bucket/prefix`. Unset: `uploads` within `blobs`."""
    models_config_file: Annotated[Path | None, Env(("MODELS_CONFIG_FILE", "CONFIG_FILE"))] = None
    """A YAML list of model configs, beside those in `models_path`."""
    aliases_file: Annotated[Path | None, Env()] = None
    """A YAML map of further names to a model, or several: the first installed. Unset: configs/aliases.yaml."""
    starter_model: Annotated[str, Env(keep_empty=True)] = "smollm2-135m-instruct"
    """Installed on the first start, when there is no model; empty: none."""

    base_url: Annotated[WebAddress | None, Env(("LOCALAI_BASE_URL",))] = None
    """The server's address in links. Unset: what a trusted proxy says, else the address that was called."""
    api_keys: Annotated[Secrets, Env(("API_KEY",))] = ()
    """Keys that clients must send, comma-separated. None: open to all."""
    api_key_file: Annotated[Path | None, Env()] = None
    """A file of more keys, one a line."""
    keys: Annotated[tuple[KeyRow, ...], JSONList, Env()] = ()
    """Keys with limits: `key` or `sha256`, `name`, `role`, `models`, `requests_per_minute`, `tokens_per_minute`."""
    config_dir: Annotated[Path, Env(("LOCALAI_CONFIG_DIR",))] = Path("configuration")
    """Where `api_keys.json` may be: a list of keys, as text or as in `keys`. Its changes are taken up at once."""
    cors: Annotated[bool, Env(("CORS",))] = False
    """Let pages of other sites call the server from a browser."""
    cors_allow_origins: Annotated[Names, Env(("CORS_ALLOW_ORIGINS",))] = ()
    """Those sites, comma-separated; empty: every one."""
    disable_csrf: Annotated[bool, Env(("DISABLE_CSRF",))] = False
    """Without keys and `cors`, answer pages of other sites too, and on loopback under any name."""
    disable_metrics_endpoint: Annotated[bool, Env(("DISABLE_METRICS_ENDPOINT",))] = False
    """No `/metrics`."""
    trusted_proxies: Annotated[Networks, Env()] = ("127.0.0.0/8", "::1")
    """Addresses and networks of the proxies in front, comma-separated: only theirs of `X-Forwarded-…` are believed."""
    compression: Annotated[bool, Env()] = False
    """Compress answers with gzip for clients that take it; streams, media and files never."""
    compression_min_bytes: Annotated[Whole, Env(("HTTP_COMPRESSION_MIN_LENGTH",))] = 1024
    """Shorter answers are not compressed."""

    json_limit_mb: Annotated[Whole, Env()] = 20
    """Largest JSON body, MiB."""
    image_limit_mb: Annotated[Whole, Env()] = 50
    """Largest image upload, MiB."""
    audio_limit_mb: Annotated[Whole, Env()] = 1024
    """Largest audio upload, MiB."""
    upload_limit_mb: Annotated[Whole, Env(("UPLOAD_LIMIT",))] = 512
    """Largest file upload, MiB."""

    image_max_pixels: Annotated[Whole, Field(ge=1), Env()] = 2048 * 2048
    """Largest image that may be asked for, width × height."""
    image_max_n: Annotated[Whole, Field(ge=1), Env()] = 10
    """Most images of one request."""
    image_max_steps: Annotated[Whole, Field(ge=1), Env()] = 150
    """Most denoising steps of one image."""
    image_max_work: Annotated[Whole, Field(ge=1), Env()] = 1_000_000_000
    """Most pixels × steps × images of one request."""

    allow_join: Annotated[bool, Env(("P2P",))] = False
    """Let other machines join the cluster: `GET /api/p2p/token` answers admins with what `make join TOKEN=…` takes."""

    request_timeout: Annotated[Duration, Field(gt=0), Env()] = 600.0
    """A request ends with an error after so long, waiting for its model included."""
    max_concurrent_requests: Annotated[Whole, Env(("MAX_CONCURRENT_BACKEND_REQUESTS",))] = 1024
    """Requests at once in each of the `ingress_replicas`; one more is refused with a 503. 0: no limit."""
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
    gallery: GalleryBlock = GalleryBlock()

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
    def local_url(self) -> str:
        """Where a client on this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 – compared, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

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

    @property
    def database(self) -> str:
        """The URL of the database, whatever names it."""
        return self.database_url.get_secret_value() or f"sqlite:///{self.data_path.absolute() / 'manta.db'}"

    def key_rows(self) -> tuple[KeyRow, ...]:
        """All keys of the settings."""
        return *(KeyRow.plain(key.get_secret_value()) for key in self.api_keys), *self.keys

    def own_key(self) -> str:
        """A key with which the server's own tools may call it; empty: none is written down in the settings."""
        rows = sorted(self.key_rows(), key=lambda row: row.role is not Role.ADMIN)
        return next((row.secret() for row in rows if row.secret()), "")

    def without_keys(self) -> Self:
        """The same with digests in place of keys: what Ray's processes are given."""
        return self.model_copy(update={"api_keys": (), "keys": tuple(row.hashed() for row in self.key_rows())})

    def gallery_settings(self) -> GallerySettings:
        """What the gallery works by. Raises ConfigInvalid for a file of models to install that is wrong."""
        block = self.gallery
        return GallerySettings(
            models_path=self.models_path.absolute(),
            data_path=self.data_path.absolute(),
            database_url=self.database,
            galleries=block.rows(),
            downloads=block.downloads(),
            parallel_jobs=block.parallel_jobs,
            index_ttl=block.gallery_ttl,
            preload=install_requests(block),
        )

    def blob_settings(self) -> BlobSettings:
        """Where generated and uploaded files are, and how long."""
        generated = _absolute(self.blobs or self.data_path / "blobs")
        return BlobSettings(generated, self.generated_ttl, _absolute(self.uploads) if self.uploads else "")

    def sourced(self, origin: Mapping[str, str], warnings: Iterable[str]) -> Self:
        """These settings, told where they came from."""
        self._origin, self._warnings = dict(origin), tuple(warnings)
        return self

    def log_origins(self) -> None:
        """Log where each setting came from (never its value: it may be a key), and what was set in vain."""
        log.info("settings", extra={"origin": dict(sorted(self._origin.items()))})
        for warning in self._warnings:
            log.warning(warning)


SECTIONS: dict[str, type[Section]] = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
"""The blocks of the settings: `models:` and the like."""


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
    settings = _with_keys(_with_paths(settings, directory))
    if settings.aliases_file and not settings.aliases_file.is_file():
        raise ConfigInvalid(f"{settings.aliases_file}: aliases_file: no such file; make it, or unset the setting")
    known_by_digest([(origin.get("keys", "settings") + ": keys", settings.key_rows())])
    settings.gallery_settings()  # now, rather than in the middle of the start, is the time for mistakes in its files
    in_vain = [f"{item.name} ({item.source}) is accepted and changes nothing: {why}" for item, why in unused(found)]
    return settings.sourced(origin, in_vain)


def table() -> str:
    """Every setting as a Markdown table, for the README."""
    rows = ["| setting | environment | default | meaning |", "|---|---|---|---|"]
    for key, field in _fields():
        names = ", ".join(f"`{name}`" for name in spellings(key.split(".")[-1], _env(field)))
        rows.append(f"| `{key}` | {names} | {_shown(field.get_default())} | {field.description or ''} |")
    return "\n".join(rows)


def _absolute(location: str | Path) -> str:
    return str(location.absolute() if isinstance(location, Path) else location)


def _shown(default: object) -> str:
    if default is None:
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def _fields() -> Iterator[tuple[str, FieldInfo]]:
    """Each setting's dotted key and field; those of the blocks come last."""
    for name, field in Settings.model_fields.items():
        if name not in SECTIONS:
            yield name, field
    for section, block in SECTIONS.items():
        for name, field in block.model_fields.items():
            yield f"{section}.{name}", field


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
    origin = {key: str(path) for key in values if key not in SECTIONS}
    for section in SECTIONS.keys() & values.keys():
        if not isinstance(values[section], dict):
            example = next(iter(SECTIONS[section].model_fields))
            raise ConfigInvalid(f"{path}: {section}: expected a mapping such as `{section}: {{{example}: …}}`")
        origin |= {f"{section}.{key}": str(path) for key in values[section]}
    return values, origin


def _from_environment(found: Mapping[str, Variable]) -> Iterator[tuple[str, Variable]]:
    for key, field in _fields():
        env = _env(field)
        for spelling in spellings(key.split(".")[-1], env):
            variable = found.get(spelling)
            if variable and (variable.value or env.keep_empty):
                yield key, variable
                break


T = TypeVar("T", bound=Section)


def _with_paths(section: T, directory: Path) -> T:
    """Paths made absolute, in the blocks too."""

    def absolute(value: Any) -> Any:
        if isinstance(value, Path):
            return directory / value.expanduser()
        if isinstance(value, tuple):
            return tuple(map(absolute, value))
        return _with_paths(value, directory) if isinstance(value, Section) else value

    return section.model_copy(update={name: absolute(getattr(section, name)) for name in type(section).model_fields})


def _with_keys(settings: Settings) -> Settings:
    """The keys of `api_key_file` added."""
    if not settings.api_key_file:
        return settings
    try:
        lines = settings.api_key_file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ConfigInvalid(
            f"{settings.api_key_file}: api_key_file: {error.strerror}; write one key a line there"
        ) from error
    keys = (SecretStr(line.strip()) for line in lines if line.strip() and not line.startswith("#"))
    return settings.model_copy(update={"api_keys": (*settings.api_keys, *keys)})


def _sentences(error: ValidationError, origin: Mapping[str, str]) -> Iterator[str]:
    """One sentence per mistake: where it stands, the key, and what was expected. Never the value: it may be a key."""
    for mistake in error.errors(include_url=False, include_context=False, include_input=False):
        place = [str(step) for step in mistake["loc"]]
        setting = next((key for key in (".".join(place[:n]) for n in (2, 1)) if key in origin), "")
        where = f"{origin.get(setting, 'settings')}: {'.'.join(place)}"
        if mistake["type"] == "extra_forbidden":
            yield f"{where}: no such setting{_instead(place, setting)}"
        else:
            yield f"{where}: {mistake['msg'].removeprefix('Value error, ')}"


def _instead(place: list[str], setting: str) -> str:
    """What may have been meant by a key that doesn't exist; of what is inside a setting nothing is known here."""
    known = [key for key, _ in _fields()]
    close = get_close_matches(setting, known, n=1) if setting == ".".join(place) else []
    return f"; did you mean {close[0]}?" if close else "; remove it"


if __name__ == "__main__":
    print(table())  # noqa: T201
