"""Models' lives by hand: the monitor, load and shutdown."""

import asyncio
from typing import Any

import httpx
import pytest

from api.auth import ADMIN_ONLY
from api.routes import backend, p2p
from deployments.errors import ModelLoadFailed
from deployments.reports import ModelReport, ReplicaReport
from deployments.states import State
from tests.unit.http_clients import Served
from tests.unit.local_cluster import LocalCluster


async def monitor(client: httpx.AsyncClient, name: str) -> dict[str, Any]:
    return dict((await client.get("/backend/monitor", params={"model": name})).raise_for_status().json())


async def test_a_model_is_named_in_the_query_or_in_the_body_of_a_get(client: httpx.AsyncClient) -> None:
    for path in ("/backend/monitor", "/v1/backend/monitor"):
        for options in ({"params": {"model": "echo"}}, {"json": {"model": "echo"}}, {"content": b'{"model": "echo"}'}):
            answer = await client.request("GET", path, **options)  # type: ignore[arg-type]
            assert (answer.status_code, answer.json()["model"]) == (200, "echo")
    both = await client.request("GET", "/backend/monitor", params={"model": "embed"}, json={"model": "echo"})
    assert both.json()["model"] == "embed"


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'"echo"', b'{"model": ""}', b'{"model": 7}', b"{"])
async def test_a_monitor_without_a_name_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.request("GET", "/backend/monitor", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_the_monitor_follows_aliases_and_knows_what_is_not_installed(client: httpx.AsyncClient) -> None:
    assert (await monitor(client, "alias"))["model"] == "echo"
    answer = await client.get("/backend/monitor", params={"model": "nobody"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_model_that_is_not_loaded_takes_nothing(client: httpx.AsyncClient) -> None:
    status = await monitor(client, "embed")
    assert (status["state"], status["status"], status["last_used"], status["error"]) == (0, "absent", None, None)
    assert status["memory"] == {"total": 0, "breakdown": {}}
    assert status["replicas"] == []


async def test_memory_and_queues_of_all_replicas_are_added_up(client: httpx.AsyncClient, cluster: LocalCluster) -> None:
    def replica(pid: int, **memory: int) -> ReplicaReport:
        return ReplicaReport("n-1", pid, memory, {"slots_busy": 1, "queued": 2}, loaded_at=1_700_000_000.0)

    cluster.reports["echo"] = ModelReport(
        "echo",
        "echo",
        State.READY,
        in_flight=6,
        last_used=1_700_000_005.5,
        replicas=[replica(1, rss=100, gpu=10, kv_cache=5), replica(2, rss=200, gpu=20)],
    )
    status = await monitor(client, "echo")
    assert status["memory"] == {"total": 330, "breakdown": {"rss": 300, "gpu": 30, "kv_cache": 5}}
    assert (status["queued"], status["in_flight"], status["last_used"]) == (4, 6, "2023-11-14T22:13:25.500000Z")
    assert [(one["pid"], one["memory"]["total"]) for one in status["replicas"]] == [(1, 110), (2, 220)]
    assert status["replicas"][0]["loaded_at"] == "2023-11-14T22:13:20Z"


def ready(**fields: Any) -> ModelReport:
    return ModelReport("echo", "echo", State.READY, **fields)


@pytest.mark.parametrize(
    ("report", "number"),
    [
        (ModelReport("echo", "echo", State.ABSENT), 0),
        (ModelReport("echo", "echo", State.LOADING, progress=0.5), 0),
        (ModelReport("echo", "echo", State.DRAINING), 1),
        (ModelReport("echo", "echo", State.FAILED, error="no such tensor"), -1),
        (ready(), 2),
        (ready(replicas=[ReplicaReport("n", 1, {}, {"slots_busy": 0, "queued": 0})]), 2),
        (ready(in_flight=1), 1),
        (ready(replicas=[ReplicaReport("n", 1, {}, {"slots_busy": 1, "queued": 0})]), 1),
        (ready(replicas=[ReplicaReport("n", 1, {}, {"slots_busy": 0, "queued": 1})]), 1),
    ],
)
async def test_states_as_localai_numbers_them(
    client: httpx.AsyncClient, cluster: LocalCluster, report: ModelReport, number: int
) -> None:
    cluster.reports["echo"] = report
    status = await monitor(client, "echo")
    assert (status["state"], status["status"], status["progress"]) == (number, report.state, report.progress)
    assert status["error"] == (report.error or None)


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_shutdown_then_load(client: httpx.AsyncClient, prefix: str) -> None:
    async def post(what: str, name: str) -> tuple[int, Any]:
        answer = await client.post(f"{prefix}/backend/{what}", json={"model": name})
        return answer.status_code, answer.json()

    assert await post("shutdown", "alias") == (200, {"message": "model stopped"})
    assert (await monitor(client, "echo"))["state"] == 0
    status, body = await post("shutdown", "echo")
    assert (status, body["error"]["code"]) == (404, "model_not_loaded")
    assert await post("load", "alias") == (200, {"loaded": ["echo"], "message": "model loaded"})
    assert (await monitor(client, "echo"))["status"] == "ready"


@pytest.mark.parametrize("what", ["load", "shutdown"])
@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"{}", 400), (b'{"model": ""}', 400), (b'{"model": null}', 400), (b'{"model": "nobody"}', 404)],
)
async def test_load_and_shutdown_need_an_installed_model(
    client: httpx.AsyncClient, what: str, body: bytes, status: int
) -> None:
    answer = await client.post(f"/backend/{what}", content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_a_load_that_fails_answers_with_the_engines_words(
    client: httpx.AsyncClient, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(name: str) -> None:
        raise ModelLoadFailed(f'model "{name}" could not be loaded: no such tensor').after(9.2)

    monkeypatch.setattr(cluster, "load", fail)
    answer = await client.post("/backend/load", json={"model": "echo"})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
    assert "no such tensor" in answer.json()["error"]["message"]


async def test_a_client_that_leaves_is_not_loaded_for_any_longer(
    app: Any, cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def load(name: str) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    monkeypatch.setattr(cluster, "load", load)
    async with Served(app) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        body = b'{"model": "echo"}'
        writer.write(b"POST /backend/load HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await asyncio.wait_for(began.wait(), 5)
        writer.close()
        await asyncio.wait_for(ended.wait(), 5)


def test_what_changes_what_runs_is_for_admins() -> None:
    routes = [*backend.router.routes, *p2p.router.routes]
    guarded = {route.path for route in routes if ADMIN_ONLY in route.dependencies}  # type: ignore[attr-defined]
    assert guarded == {"/backend/shutdown", "/backend/load", "/api/p2p/token"}
