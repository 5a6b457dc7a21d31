"""What routes need of the cluster beside the models' answers. `cluster_handle.py` asks by Ray; tests have another."""

from typing import Protocol

from api.quotas import Amounts, Lease, LeaseRequest
from deployments.reports import ModelReport, NodeReport
from deployments.samples import Samples


class ClusterGateway(Protocol):
    """Models' lives and the machines they run on."""

    async def models(self, *, replicas: bool = False) -> list[ModelReport]:
        """Every model that is not ABSENT, sorted by name; `replicas`: with what theirs say."""
        ...

    async def model(self, name: str) -> ModelReport:
        """One installed model, whatever its state, with what its replicas say. Raises ModelNotFound."""
        ...

    async def load(self, name: str) -> None:
        """Returns when it is READY. Raises ModelNotFound, ModelDisabled, what its load failed with, and, while the load
        goes on, DeadlineExceeded."""
        ...

    async def unload(self, name: str) -> None:
        """Drain and unload; returns when it is gone. Raises ModelNotFound, NotLoaded, and, while the unload goes on,
        DeadlineExceeded."""
        ...

    async def lease(self, request: LeaseRequest) -> Lease:
        """Lend a part of an API key's quotas. Raises DeadlineExceeded when the controller is away."""
        ...

    async def quotas_used(self) -> dict[str, Amounts]:
        """Tenant → what its key has used of the last minute, of what it has a limit of."""
        ...

    async def nodes(self) -> list[NodeReport]:
        """The live machines of the cluster, the head first."""
        ...

    async def metrics(self) -> Samples:
        """What all processes of the server have counted, added up. Raises NotReady."""
        ...

    async def join_token(self) -> str:
        """What a machine needs to become a worker of this cluster (`make join TOKEN=…`); empty: none may."""
        ...
