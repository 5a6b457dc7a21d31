"""A model's state, and what ingresses and the controller tell each other about it once a second."""

from dataclasses import dataclass, field
from enum import StrEnum

from deployments.backends.base import ModelCard
from deployments.errors import MantaError
from deployments.samples import Snapshot


class State(StrEnum):
    """ABSENT → LOADING → READY → DRAINING → ABSENT; LOADING → FAILED → LOADING after the cool-down."""

    ABSENT = "absent"
    """Installed, not loaded: no Serve application."""
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    """No new requests; it goes when the running ones have ended."""
    FAILED = "failed"


@dataclass(slots=True)
class ModelStatus:
    """One model, as ingresses see it."""

    state: State
    app: str
    """Its Serve application."""
    progress: float = 0.0
    """Of LOADING: the engine's own, 0 to 1."""
    error: MantaError | None = None
    """Of FAILED: what every request is answered with."""
    until: float = 0.0
    """Of FAILED: Unix time at which a request may try again."""


@dataclass(slots=True)
class InUse:
    """What one ingress did with one model."""

    in_flight: int
    last_used: float
    """Unix time."""


@dataclass(slots=True)
class Settlement:
    """What became of a part of an API key's quota that an ingress was lent."""

    key: str
    """The key's tenant."""
    resource: str
    second: int
    """Unix time at which it was lent."""
    amount: int
    """Not used, and given back. Negative: used beyond what was lent."""


@dataclass(slots=True)
class Report:
    """From an ingress: who it is, what it has seen (all of `epoch` up to `version`), what it is doing."""

    ingress: str
    epoch: str = ""
    version: int = -1
    in_use: dict[str, InUse] = field(default_factory=dict)
    node: str = ""
    """Id of the Ray node it runs on."""
    metrics: Snapshot | None = None
    """What it has counted; None: nothing new."""
    settled: list[Settlement] = field(default_factory=list)


@dataclass(slots=True)
class Update:
    """The controller's answer: what changed since the reported version; everything when the epoch is another."""

    epoch: str
    """One life of the controller."""
    version: int
    statuses: dict[str, ModelStatus]
    cards: list[ModelCard] | None = None
    """The installed models; None: as before."""
    whole: bool = False
    """`statuses` is all there is: forget the rest."""
