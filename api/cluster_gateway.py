"""What routes need of the cluster beside the models' answers. `api/cluster_handle.py` asks by Ray; tests have another."""

from typing import Protocol

from deployments.reports import ModelReport, NodeReport


class ClusterGateway(Protocol):
    """Models' lives and the machines they run on."""

    async def models(self) -> list[ModelReport]:
        """Every model that is not ABSENT, sorted by name."""
        ...

    async def model(self, name: str) -> ModelReport:
        """One installed model, whatever its state. Raises ModelNotFound."""
        ...

    async def load(self, name: str) -> None:
        """Returns when it is READY. Raises ModelNotFound, or what its load failed with."""
        ...

    async def unload(self, name: str) -> None:
        """Drain and unload; returns when it is gone. Raises ModelNotFound; NotLoaded where there is nothing to unload."""
        ...

    async def nodes(self) -> list[NodeReport]:
        """The live machines of the cluster, the head first."""
        ...

    async def join_token(self) -> str:
        """What a machine needs to become a worker of this cluster (`make join TOKEN=…`); empty: none may."""
        ...
