"""What the controller tells operators of models, their replicas and the cluster's machines."""

from dataclasses import dataclass, field

from deployments.states import State


@dataclass(slots=True)
class ReplicaReport:
    """One replica, by its own account."""

    node: str
    """Id of the Ray node it runs on."""
    pid: int
    memory: dict[str, int] = field(default_factory=dict)
    """Kind → bytes: `rss` (this process and its children), `gpu`, and what of either is set aside as `kv_cache`."""
    stats: dict[str, float] = field(default_factory=dict)
    """The engine's gauges and counters; `slots_busy` and `queued` always."""
    loaded_at: float = 0.0
    """Unix time."""


@dataclass(slots=True)
class ModelReport:
    """One model."""

    name: str
    backend: str
    state: State
    progress: float = 0.0
    """Of LOADING, 0 to 1."""
    error: str = ""
    """Of FAILED."""
    in_flight: int = 0
    """Requests on their way to it, queued or running, by the ingresses' account."""
    last_used: float = 0.0
    """Unix time; 0: not by any ingress that lives."""
    loaded_at: float = 0.0
    """Unix time, of the replica that runs longest; 0: none runs, or they weren't asked."""
    replicas: list[ReplicaReport] = field(default_factory=list)


@dataclass(slots=True)
class NodeReport:
    """One machine of the Ray cluster."""

    id: str
    name: str
    """Host name."""
    address: str
    """IP address."""
    last_seen: float
    """Unix time at which Ray took it for alive."""
    resources: dict[str, float] = field(default_factory=dict)
    """Ray's, in all: CPU, GPU, memory (bytes), …"""
    available: dict[str, float] = field(default_factory=dict)
    """Of them, what is not taken."""
    ingress: bool = False
    """Ingress replicas run on it."""
