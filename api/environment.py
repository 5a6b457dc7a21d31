"""Environment names: how a setting's names are tried, and LocalAI's variables that Manta accepts and does not use."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv import dotenv_values

OWN_PREFIX = "MANTA_"
LOCALAI_PREFIX = "LOCALAI_"

DOTENV_FILES = (".env", "localai.env")
"""Read from the working directory, the first that has a name wins; real environment variables win over both."""


@dataclass(frozen=True, slots=True)
class Env:
    """The LocalAI names of a setting: each is tried as `LOCALAI_X`, then `X`; one that has a prefix as it is.

    Every setting has `MANTA_<FIELD>` besides, which wins.
    """

    names: tuple[str, ...] = ()
    keep_empty: bool = False
    """An empty value is a value. Otherwise it counts as unset: compose files pass `API_KEY=` for "none"."""


@dataclass(frozen=True, slots=True)
class Variable:
    """An environment variable that is set."""

    name: str
    value: str
    source: str
    """Where it stands, for the log: `environment` or a file's name."""


def variables(environ: Mapping[str, str], directory: Path) -> dict[str, Variable]:
    """All variables in force: the process's own, then those of the .env files in `directory`."""
    found = {name: Variable(name, value, "environment") for name, value in environ.items()}
    for filename in DOTENV_FILES:
        for name, value in dotenv_values(directory / filename, interpolate=False).items():
            if value is not None:
                found.setdefault(name, Variable(name, value, filename))
    return found


def spellings(field: str, env: Env) -> list[str]:
    """Every name a setting goes by, the one that wins first."""
    return [OWN_PREFIX + field.upper(), *(spelling for name in env.names for spelling in _spellings(name))]


def unused(found: Mapping[str, Variable]) -> Iterator[tuple[Variable, str]]:
    """LocalAI's variables that are set and change nothing here, each with the reason."""
    for name, reason in ACCEPTED_UNUSED.items():
        for spelling in _spellings(name):
            if spelling in found and found[spelling].value:
                yield found[spelling], reason


def _spellings(name: str) -> tuple[str, ...]:
    return (name,) if "_" in name and name.split("_", 1)[0] in _PREFIXES else (LOCALAI_PREFIX + name, name)


_PREFIXES = frozenset({"LOCALAI", "LLAMACPP", "HF"})

_REASONS: dict[str, str] = {
    "galleries are read when they are asked for": "AUTOLOAD_GALLERIES",
    "short names of models are those of the galleries": "REMOTE_LIBRARY",
    "pickled weights are refused but for galleries that say `allow_pickles`": "LOCALAI_DISABLE_PREDOWNLOAD_SCAN",
    "MANTA_PARALLEL_JOBS and MANTA_DOWNLOAD_CONNECTIONS say it": "ARTIFACT_DOWNLOAD_CONCURRENCY",
    "MANTA_BLOBS says it": "IMAGE_PATH AUDIO_PATH",
    "all state is kept under MANTA_DATA_PATH": "CONFIG_PATH",
    "api_keys.json is looked at once a second": "LOCALAI_CONFIG_DIR_POLL_INTERVAL",
    "backends are Python packages, installed with `make install-<extra>`": "BACKEND_ASSETS_PATH BACKENDS_PATH "
    "BACKENDS_SYSTEM_PATH BACKEND_GALLERIES EXTERNAL_BACKENDS AUTOLOAD_BACKEND_GALLERIES AUTO_UPGRADE_BACKENDS "
    "REQUIRE_BACKEND_INTEGRITY PRELOAD_BACKEND_ONLY LOCALAI_LIBRARY_PATH",
    "backends are Ray actors, not gRPC processes": "EXTERNAL_GRPC_BACKENDS LLAMACPP_GRPC_SERVERS "
    "PYTHON_GRPC_MAX_WORKERS LOCALAI_FORCE_BACKEND_SHUTDOWN",
    "requests always run in parallel": "PARALLEL_REQUESTS",
    "a request ends at MANTA_REQUEST_TIMEOUT": "WATCHDOG_BUSY WATCHDOG_BUSY_TIMEOUT",
    "the controller acts on events": "WATCHDOG_INTERVAL",
    "Ray places models by the resources they ask for": "MEMORY_RECLAIMER MEMORY_RECLAIMER_THRESHOLD VRAM_BUDGET "
    "FORCE_EVICTION_WHEN_BUSY SIZE_AWARE_EVICTION LRU_EVICTION_MAX_RETRIES LRU_EVICTION_RETRY_INTERVAL",
    "key comparison is always constant-time": "LOCALAI_SUBTLE_KEY_COMPARISON",
    "keys guard every route but /healthz and /readyz": "LOCALAI_DISABLE_API_KEY_REQUIREMENT_FOR_HTTP_GET "
    "LOCALAI_HTTP_GET_EXEMPTED_ENDPOINTS",
    "errors never hold internals": "LOCALAI_OPAQUE_ERRORS",
    "pages of other sites are refused unless MANTA_DISABLE_CSRF says otherwise": "LOCALAI_CSRF",
    "there is no web page yet": "DISABLE_WEBUI",
    "MANTA_COMPRESSION says it": "DISABLE_HTTP_COMPRESSION",
    "Ray forms the cluster": "P2P_DHT_INTERVAL P2P_OTP_INTERVAL P2P_TOKEN LOCALAI_TOKEN P2P_NETWORK_ID FEDERATED "
    "DISTRIBUTED NATS_URL LOCALAI_REGISTRATION_TOKEN AUTO_APPROVE_NODES DISTRIBUTED_SHARED_MODELS "
    "DISTRIBUTED_PREFIX_CACHE DISTRIBUTED_DISK_HEADROOM_CHECK LOCALAI_MODEL_LOAD_WAIT LOCALAI_MODEL_SCHEDULING "
    "EXPOSE_NODE_HEADER",
    "there are no user accounts yet, only keys": "LOCALAI_AUTH AUTH_DATABASE_URL LOCALAI_DISABLE_LOCAL_AUTH "
    "LOCALAI_REGISTRATION_MODE DEFAULT_API_KEY_EXPIRY AUTH_HMAC_SECRET LOCALAI_ADMIN_EMAIL",
    "not offered": "OLLAMA_API_ROOT_ENDPOINT DISABLE_RUNTIME_SETTINGS ALLOW_INSECURE_PUBLIC_BIND "
    "ENABLE_TRACING TRACING_MAX_ITEMS TRACING_MAX_BODY_BYTES OPEN_RESPONSES_STORE_TTL "
    "LOCALAI_DISABLE_MCP LOCALAI_DISABLE_AGENTS MITM_LISTEN PII_DEFAULT_DETECTORS LOCALAI_MACHINE_TAG "
    "LOCALAI_DISABLE_GUESSING LOCALAI_DISABLE_AUTODETECT",
}

ACCEPTED_UNUSED: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""LocalAI's variable → why it changes nothing. Names that other programs use too are taken with the prefix alone."""
