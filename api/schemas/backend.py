"""What runs of a model: the backend monitor's wire types."""

from datetime import UTC, datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deployments.reports import ModelReport, ReplicaReport
from deployments.states import State


class BackendMonitorRequest(BaseModel):
    """LocalAI's."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    model: str = Field(min_length=1)
    """Name or alias of an installed model."""


class MemoryUsageData(BaseModel):
    """Bytes."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    total: int
    """Of the machine and of GPUs."""
    breakdown: dict[str, int]
    """By kind: `rss`; `gpu` where there are NVIDIA GPUs; what of either is set aside as `kv_cache`, where the engine
    knows. Pages of it that nobody has written to yet are not in `rss`."""


class Replica(BaseModel):
    """One replica, by its own account."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    node: str
    """Id of the machine, as in `/api/p2p`."""
    pid: int
    memory: MemoryUsageData
    stats: dict[str, float]
    """The engine's gauges."""
    loaded_at: datetime


class BackendStatus(BaseModel):
    """How a model is."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    status: State
    progress: float
    """Of loading, 0 to 1."""
    error: str | None = None
    """Why it failed to load."""
    queued: int
    """Requests that wait in its replicas."""
    in_flight: int
    """Requests on their way to it, queued or running."""
    last_used: datetime | None = None
    memory: MemoryUsageData
    replicas: list[Replica]


class StatusResponse(BackendStatus):
    """LocalAI's, and beside it the server's own account."""

    model: str
    state: Literal[0, 1, 2, -1]
    """LocalAI's number: 0 not loaded, 1 busy, 2 ready, -1 failed."""


class BackendStopped(BaseModel):
    message: str = "model stopped"


class BackendLoaded(BaseModel):
    loaded: list[str]
    message: str = "model loaded"


def backend_status(report: ModelReport) -> BackendStatus:
    return BackendStatus(
        status=report.state,
        progress=report.progress,
        error=report.error or None,
        queued=_queued(report),
        in_flight=report.in_flight,
        last_used=_time(report.last_used) if report.last_used else None,
        memory=_memory([replica.memory for replica in report.replicas]),
        replicas=[_replica(replica) for replica in report.replicas],
    )


def status_response(report: ModelReport) -> StatusResponse:
    return StatusResponse(model=report.name, state=_state(report), **dict(backend_status(report)))


def _state(report: ModelReport) -> Literal[0, 1, 2, -1]:
    if report.state is State.READY:
        busy = report.in_flight or _queued(report) or any(r.stats.get("slots_busy") for r in report.replicas)
        return 1 if busy else 2
    return _STATES[report.state]


_STATES: dict[State, Literal[0, 1, -1]] = {State.ABSENT: 0, State.LOADING: 0, State.DRAINING: 1, State.FAILED: -1}


def _replica(report: ReplicaReport) -> Replica:
    return Replica(
        node=report.node,
        pid=report.pid,
        memory=_memory([report.memory]),
        stats=report.stats,
        loaded_at=_time(report.loaded_at),
    )


def _memory(parts: list[dict[str, int]]) -> MemoryUsageData:
    kinds = {kind: sum(part.get(kind, 0) for part in parts) for kind in sorted(set().union(*parts))}
    return MemoryUsageData(total=kinds.get("rss", 0) + kinds.get("gpu", 0), breakdown=kinds)


def _queued(report: ModelReport) -> int:
    return round(sum(replica.stats.get("queued", 0) for replica in report.replicas))


def _time(unix: float) -> datetime:
    return datetime.fromtimestamp(unix, UTC)
