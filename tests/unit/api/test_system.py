"""Health, version, documentation, CORS, and what every response has."""

import re

import httpx
import pytest

from deployments.backends.registry import BACKENDS
from deployments.reports import ModelReport
from deployments.states import State
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_cluster import LocalCluster
from tests.unit.local_dispatch import LocalDispatch


async def test_health(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz")).text == "OK"
    assert (await client.get("/readyz")).text == "OK"
    gateway.not_ready = "the controller starts"
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["error"]["message"] == "the controller starts"
    assert (await client.get("/healthz")).status_code == 200


async def test_about_and_version(client: httpx.AsyncClient) -> None:
    assert (await client.get("/")).json()["name"] == "Manta"
    assert re.fullmatch(r"v\d+\.\d+\.\d+", (await client.get("/version")).json()["version"])


async def test_swagger_needs_no_internet(client: httpx.AsyncClient) -> None:
    for path in ("/swagger/", "/swagger/index.html"):
        page = (await client.get(path)).text
        urls = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(urls) == 3
        for url in urls:
            assert (await client.get(url)).status_code == 200, url
    assert '"/openapi.json"' in page or "'/openapi.json'" in page


async def test_openapi_document(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    assert "createChatCompletion" in ids
    text = str(document)
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) <= set(document["components"]["schemas"])
    for path in document["paths"]:
        assert path.startswith("/v1/") or f"/v1{path}" in document["paths"] or OWN_PATHS.fullmatch(path)
    chat = document["paths"]["/v1/chat/completions"]["post"]
    assert set(chat["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
    assert chat["requestBody"]["content"]["application/json"]["schema"]["$ref"].endswith("/ChatCompletionRequest")


OWN_PATHS = re.compile(
    "/|/v2/rerank|/tts|/generated-images/{name}|/version|/healthz|/readyz|/system|/api/p2p(/token)?|/api/keys|/metrics|/stores/(set|get|find|delete)|/models/(reload|apply|import-uri|available|galleries|delete/{name}|jobs(/{uuid}.*)?)"
)


async def test_system_lists_backends_and_what_is_loaded(client: httpx.AsyncClient, cluster: LocalCluster) -> None:
    cluster.reports["broken"] = ModelReport("broken", "llama-cpp", State.FAILED, error="no such file")
    plain = (await client.get("/system")).json()
    assert plain["backends"] == sorted(BACKENDS)
    assert plain == {"backends": plain["backends"], "loaded_models": [{"id": "echo", "backend": "echo"}]}


async def test_verbose_system_tells_all_about_them(client: httpx.AsyncClient, cluster: LocalCluster) -> None:
    cluster.reports["broken"] = ModelReport("broken", "llama-cpp", State.FAILED, error="no such file")
    told = (await client.get("/system", params={"verbose": "1"})).json()
    echo, broken = told["loaded_models"]
    assert (echo["id"], echo["status"]["in_flight"], echo["status"]["queued"]) == ("echo", 3, 2)
    assert echo["status"]["memory"] == {"total": 1 << 20, "breakdown": {"rss": 1 << 20, "kv_cache": 1 << 10}}
    assert [replica["pid"] for replica in echo["status"]["replicas"]] == [4711]
    assert (broken["status"]["status"], broken["status"]["error"]) == ("failed", "no such file")
    assert [(node["id"], node["serviceID"]) for node in told["nodes"]] == [("n-1", "federated"), ("n-2", "worker")]


async def test_system_is_for_who_has_a_key(make_app: AppFactory) -> None:
    async with http_client(make_app(api_keys=("k",))) as client:
        assert (await client.get("/system")).status_code == 401


async def test_cors(make_app: AppFactory) -> None:
    origin = {"Origin": "http://page"}
    preflight = origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    async with http_client(make_app(cors=True, api_keys=("k",))) as client:
        response = await client.options("/v1/chat/completions", headers=preflight)
        assert response.status_code == 200
        assert "authorization" in response.headers["access-control-allow-headers"]
        refused = await client.post("/v1/chat/completions", headers=origin)
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "*"
    async with http_client(make_app(cors=True, cors_allow_origins=("http://other",))) as client:
        assert "access-control-allow-origin" not in (await client.get("/version", headers=origin)).headers
    async with http_client(make_app()) as client:
        assert "access-control-allow-origin" not in (await client.get("/version", headers=origin)).headers


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "\x7f"])
async def test_insane_request_ids_are_replaced(client: httpx.AsyncClient, sent: str) -> None:
    answered = (await client.get("/version", headers={"X-Request-ID": sent})).headers
    assert re.fullmatch("[0-9a-f]{32}", answered["x-request-id"])
    assert answered["x-correlation-id"] == answered["x-request-id"]
