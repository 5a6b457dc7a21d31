"""The ingress's way to what operators ask and do: of models by the controller, of machines by Ray."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

import ray
from ray.autoscaler.v2.sdk import get_cluster_status

from api.join_token import JoinToken, ray_token
from api.quotas import Amounts, Lease, LeaseRequest
from api.sole_replica import SoleReplica
from deployments.errors import DeadlineExceeded, NotReady
from deployments.reports import ModelReport, NodeReport
from deployments.samples import Recorder, Samples

LONG_S = 3600.0
"""More than the longest request timeout that makes sense, which comes first."""

METRICS_S = 5.0
"""For a scrape: Prometheus waits for 10 s."""

HEAD = "node:__internal_head__"
"""Ray's resource that only the head has."""


class ClusterHandle:
    """The model controller's replica, and Ray's (`cluster_gateway.ClusterGateway`)."""

    def __init__(self, controller: SoleReplica, recorder: Recorder, *, timeout: float, allow_join: bool) -> None:
        """`recorder`: of this process. `timeout`: seconds that a load or unload is waited for."""
        self._controller = controller
        self._recorder = recorder
        self._timeout = timeout
        self._allow_join = allow_join

    async def models(self, *, replicas: bool = False) -> list[ModelReport]:
        reports: list[ModelReport] = await self._controller.ask("models", replicas)
        return reports

    async def model(self, name: str) -> ModelReport:
        report: ModelReport = await self._controller.ask("model", name)
        return report

    async def load(self, name: str) -> None:
        async with self._patience(f'model "{name}" was not loaded within {{:.0f}} s; the load goes on'):
            await self._controller.ask("loaded", name, timeout=LONG_S)

    async def unload(self, name: str) -> None:
        async with self._patience(f'model "{name}" still has requests after {{:.0f}} s; it goes when they have ended'):
            await self._controller.ask("unload", name, timeout=LONG_S)

    async def lease(self, request: LeaseRequest) -> Lease:
        lease: Lease = await self._controller.ask("lease", request)
        return lease

    async def quotas_used(self) -> dict[str, Amounts]:
        used: dict[str, Amounts] = await self._controller.ask("quotas_used")
        return used

    async def nodes(self) -> list[NodeReport]:
        serving = await self._controller.ask("ingress_nodes")
        return await asyncio.to_thread(_nodes, serving)

    async def metrics(self) -> Samples:
        """Never what was known before: of several ingresses one would fall behind another, and counters go back."""
        try:
            samples: Samples = await self._controller.ask("metrics", self._recorder.snapshot(), timeout=METRICS_S)
        except DeadlineExceeded as error:
            raise NotReady("the model controller, which adds the metrics up, is away").after(5) from error
        return samples

    async def join_token(self) -> str:
        if not self._allow_join:
            return ""
        token = await asyncio.to_thread(ray_token)
        return JoinToken.of(ray.get_runtime_context().gcs_address, token).encoded()

    @asynccontextmanager
    async def _patience(self, complaint: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout):
                yield
        except TimeoutError:
            raise DeadlineExceeded(complaint.format(self._timeout)) from None


def _nodes(serving: Collection[str]) -> list[NodeReport]:
    """The machines that Ray takes for alive; on those of `serving` ingresses run. Blocking."""
    now, status = time.time(), get_cluster_status(ray.get_runtime_context().gcs_address)
    available = {node.node_id: node.available_resources() for node in (*status.active_nodes, *status.idle_nodes)}
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [
        NodeReport(
            id=(key := node["NodeID"]),
            name=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            last_seen=now,
            resources=_countable(node["Resources"]),
            available=_countable(available.get(key, {})),
            ingress=key in serving,
        )
        for node in sorted(alive, key=lambda node: (HEAD not in node["Resources"], node["NodeID"]))
    ]


def _countable(resources: dict[str, float]) -> dict[str, float]:
    """Without those by which Ray names a node."""
    return {name: amount for name, amount in resources.items() if not name.startswith("node:")}
