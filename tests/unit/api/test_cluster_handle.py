"""What operators ask of the controller and of Ray, without either."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from api import cluster_handle, join_token
from api.cluster_handle import HEAD, ClusterHandle
from api.join_token import JoinToken
from api.sole_replica import SoleReplica
from deployments.errors import DeadlineExceeded, NotLoaded, NotReady
from deployments.metrics import COLD_STARTS
from deployments.samples import Recorder, Samples, Snapshot
from tests.unit.paper_handles import Handle, Unary


def asking(timeout: float = 5, allow_join: bool = False, **methods: Callable[..., Any]) -> ClusterHandle:
    """A cluster whose controller has these coroutine functions."""
    remotes = {name: lambda *args, f=function: Unary(lambda: f(*args)) for name, function in methods.items()}
    controller = SoleReplica(Handle(**remotes), "the controller")  # type: ignore[arg-type]
    return ClusterHandle(controller, Recorder(), timeout=timeout, allow_join=allow_join)


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three machines, one of them dead."""

    def node(key: str, alive: bool, **resources: float) -> dict[str, Any]:
        named = {"NodeManagerHostname": f"host-{key}", "NodeManagerAddress": f"10.0.0.{key}"}
        return {"NodeID": key, "Alive": alive, "Resources": {f"node:10.0.0.{key}": 1.0, **resources}, **named}

    def usage(key: str, **available: float) -> Any:
        return SimpleNamespace(node_id=key, available_resources=lambda: {f"node:10.0.0.{key}": 1.0, **available})

    nodes = [node("1", True, CPU=4), node("2", False, CPU=4), node("3", True, CPU=2, **{HEAD: 1.0})]
    status = SimpleNamespace(active_nodes=[usage("3", CPU=0.5)], idle_nodes=[usage("1", CPU=4)])
    context = SimpleNamespace(gcs_address="10.0.0.3:6379")
    stub = SimpleNamespace(nodes=lambda: nodes, get_runtime_context=lambda: context)
    monkeypatch.setattr(cluster_handle, "ray", stub)
    monkeypatch.setattr(cluster_handle, "get_cluster_status", lambda address: status)


async def test_live_machines_the_head_first(ray: None) -> None:
    async def ingress_nodes() -> set[str]:
        return {"3"}

    head, worker = await asking(ingress_nodes=ingress_nodes).nodes()
    assert (head.id, head.name, head.address, head.ingress) == ("3", "host-3", "10.0.0.3", True)
    assert (head.resources, head.available) == ({"CPU": 2}, {"CPU": 0.5})
    assert (worker.id, worker.ingress, worker.available) == ("1", False, {"CPU": 4})


async def test_a_join_token_has_what_it_takes(ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_handle, "ray_token", lambda: "ray-secret")
    assert await asking().join_token() == "", "joining is off"
    token = JoinToken.decoded(await asking(allow_join=True).join_token())
    assert (token.address, token.token) == ("10.0.0.3:6379", "ray-secret")
    assert token == join_token.JoinToken.of("10.0.0.3:6379", "ray-secret")


@pytest.mark.parametrize("method", ["load", "unload"])
async def test_who_waits_too_long_is_told_that_it_goes_on(method: str) -> None:
    async def never(name: str) -> None:
        await asyncio.Event().wait()

    cluster = asking(timeout=0.02, loaded=never, unload=never)
    with pytest.raises(DeadlineExceeded, match=r'model "m".* goes'):
        await getattr(cluster, method)("m")


async def test_a_scrape_brings_what_its_own_process_counted() -> None:
    async def metrics(snapshot: Snapshot) -> Samples:
        return snapshot.samples

    COLD_STARTS.labels("scraping").inc()
    samples = await asking(metrics=metrics).metrics()
    assert samples["manta_cold_starts_total", (("model", "scraping"),)] == 1


async def test_without_the_controller_there_are_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    async def metrics(snapshot: Snapshot) -> Samples:
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(cluster_handle, "METRICS_S", 0.02)
    with pytest.raises(NotReady, match="away"):
        await asking(metrics=metrics).metrics()


async def test_what_the_controller_raises_comes_through() -> None:
    async def unload(name: str) -> None:
        raise NotLoaded(f"{name} is not loaded")

    with pytest.raises(NotLoaded):
        await asking(unload=unload).unload("m")
