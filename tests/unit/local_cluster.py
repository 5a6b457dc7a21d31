"""A cluster of scripts: what the routes for operators are tested against."""

from dataclasses import dataclass, field

from api.quota_windows import QuotaWindows
from api.quotas import Amounts, Lease, LeaseRequest
from deployments.errors import ModelNotFound, NotLoaded
from deployments.reports import ModelReport, NodeReport, ReplicaReport
from deployments.samples import Recorder, Samples
from deployments.states import State


def _reports() -> dict[str, ModelReport]:
    replica = ReplicaReport("n-1", 4711, {"rss": 1 << 20, "kv_cache": 1 << 10}, {"slots_busy": 1, "queued": 2})
    return {
        "echo": ModelReport("echo", "echo", State.READY, in_flight=3, loaded_at=1_700_000_000.0, replicas=[replica]),
        "embed": ModelReport("embed", "echo", State.ABSENT),
    }


@dataclass
class LocalCluster:
    """Keeps its models' states."""

    reports: dict[str, ModelReport] = field(default_factory=_reports)
    machines: list[NodeReport] = field(
        default_factory=lambda: [
            NodeReport("n-1", "head", "10.0.0.1", 1_700_000_001.0, {"CPU": 2.0}, {"CPU": 1.0}, ingress=True),
            NodeReport("n-2", "worker", "10.0.0.2", 1_700_000_001.0, {"CPU": 8.0}, {"CPU": 8.0}),
        ]
    )
    token: str = ""
    quotas: QuotaWindows = field(default_factory=QuotaWindows)

    async def models(self, *, replicas: bool = False) -> list[ModelReport]:
        return [report for report in self.reports.values() if report.state is not State.ABSENT]

    async def model(self, name: str) -> ModelReport:
        if name not in self.reports:
            raise ModelNotFound(f'model "{name}" not found').at("model")
        return self.reports[name]

    async def load(self, name: str) -> None:
        (await self.model(name)).state = State.READY

    async def unload(self, name: str) -> None:
        report = await self.model(name)
        if report.state is State.ABSENT:
            raise NotLoaded(f'model "{name}" is not loaded').at("model")
        report.state, report.replicas = State.ABSENT, []

    async def lease(self, request: LeaseRequest) -> Lease:
        return self.quotas.lease(request)

    async def quotas_used(self) -> dict[str, Amounts]:
        return self.quotas.used()

    async def nodes(self) -> list[NodeReport]:
        return self.machines

    async def metrics(self) -> Samples:
        return Recorder().snapshot().samples

    async def join_token(self) -> str:
        return self.token
