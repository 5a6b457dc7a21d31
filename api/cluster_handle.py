"""The ingress's way to the controller for what operators ask and do, by Ray."""

from api.sole_replica import SoleReplica
from deployments.reports import ModelReport, NodeReport

LONG_S = 3600.0
"""For a load, or an unload that first lets requests finish: the controller has limits of its own."""


class ClusterHandle:
    """The model controller's replica (`cluster_gateway.ClusterGateway`)."""

    def __init__(self, controller: SoleReplica) -> None:
        self._controller = controller

    async def models(self) -> list[ModelReport]:
        reports: list[ModelReport] = await self._controller.ask("models")
        return reports

    async def model(self, name: str) -> ModelReport:
        report: ModelReport = await self._controller.ask("model", name)
        return report

    async def load(self, name: str) -> None:
        await self._controller.ask("loaded", name, timeout=LONG_S)

    async def unload(self, name: str) -> None:
        await self._controller.ask("unload", name, timeout=LONG_S)

    async def nodes(self) -> list[NodeReport]:
        nodes: list[NodeReport] = await self._controller.ask("nodes")
        return nodes

    async def join_token(self) -> str:
        token: str = await self._controller.ask("join_token")
        return token
