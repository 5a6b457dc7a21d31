"""The block `models:` of the settings: what a model's own file leaves unset."""

from typing import Annotated

from pydantic import Field

from api.environment import Env
from api.setting_types import Amount, AutoWhole, Duration, Section, Whole
from deployments.config import ModelDefaults

_SHIPPED = ModelDefaults()


class ModelSettings(Section):
    """What a model's own file leaves unset."""

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
