"""The machines of the cluster, and the token with which others join."""

from datetime import UTC, datetime

import httpx
import pytest

from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_cluster import LocalCluster

KEY = {"Authorization": "Bearer key"}


async def test_nodes_in_localais_two_shapes(client: httpx.AsyncClient) -> None:
    (nodes,) = (await client.get("/api/p2p")).json()
    assert nodes == (await client.get("/api/p2p", params={"format": "object"})).json()
    head, worker = nodes["nodes"]
    assert head.keys() == {"id", "name", "tunnelAddress", "serviceID", "lastSeen", "resources", "available"}
    assert (head["id"], head["name"], head["tunnelAddress"]) == ("n-1", "head", "10.0.0.1")
    assert (worker["resources"], head["available"]) == ({"CPU": 8}, {"CPU": 1})
    assert {node["serviceID"] for node in nodes["nodes"]} == {"worker"}
    assert datetime.fromisoformat(head["lastSeen"]) == datetime.fromtimestamp(1_700_000_001, UTC)
    assert [(node["id"], node["serviceID"]) for node in nodes["federated_nodes"]] == [("n-1", "federated")]


async def test_another_shape_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/p2p", params={"format": "yaml"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "format")


async def test_where_joining_is_off_the_token_is_empty(client: httpx.AsyncClient) -> None:
    answer = await client.get("/api/p2p/token")
    assert (answer.status_code, answer.text) == (200, "")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.fixture
def joinable(cluster: LocalCluster) -> None:
    cluster.token = "secret-token"


async def test_the_token_is_for_who_has_a_key(make_app: AppFactory, joinable: None) -> None:
    async with http_client(make_app(api_keys=("key",))) as client:
        answer = await client.get("/api/p2p/token", headers=KEY)
        assert (answer.text, answer.headers["cache-control"]) == ("secret-token", "no-store")
        assert (await client.get("/api/p2p/token")).status_code == 401


async def test_a_server_without_keys_tells_nobody(make_app: AppFactory, joinable: None) -> None:
    async with http_client(make_app()) as client:
        answer = await client.get("/api/p2p/token", headers=KEY)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
    assert "secret-token" not in answer.text
