"""The edge with Serve's HAProxy in front: whose headers are believed, and state that every ingress shares."""

from typing import Any

import httpx
import pytest

from tests.serving import Server

TRUSTED, STRANGER = "127.0.0.1", "127.0.0.2"
"""Both are this machine; tests/conftest.py makes only the first one a trusted proxy."""


@pytest.mark.parametrize(("peer", "scheme"), [(TRUSTED, "https"), (STRANGER, "http")])
@pytest.mark.parametrize("claimed", ["203.0.113.7", f"203.0.113.7, {TRUSTED}", TRUSTED])
def test_only_a_trusted_proxy_is_believed(server: Server, peer: str, scheme: str, claimed: str) -> None:
    """A client that claims to be one, or to come from one, is none."""
    headers = {"X-Forwarded-For": claimed, "X-Forwarded-Proto": "https"}
    with server.client(transport=httpx.HTTPTransport(local_address=peer)) as client:
        link = client.post("/models/apply", json={"id": "there-is-none"}, headers=headers).json()["status"]
    assert link.startswith(f"{scheme}://127.0.0.1:")


def test_no_client_gives_serve_a_deadline(server: Server) -> None:
    """HAProxy takes the headers away by which Serve would let it."""
    with server.client() as client:
        body = {"model": "echo-slow", "prompt": "a b c"}
        answer = client.post("/v1/completions", json=body, headers={"x-request-timeout-seconds": "0.001"})
    assert answer.status_code == 200


def test_stores_are_the_same_on_every_ingress(server: Server) -> None:
    with server.client() as client:

        def post(route: str, **body: Any) -> httpx.Response:
            return client.post(f"/stores/{route}", json={"store": "edge", **body}).raise_for_status()

        for i in range(20):  # the proxy takes the ingress that has the least to do
            post("set", keys=[[i, 1], [-1, i]], values=[f"a{i}", f"b{i}"])
            post("delete", keys=[[-1, i]])
            found = post("find", key=[1, 0], topk=100).json()
            assert sorted(found["values"]) == sorted(f"a{n}" for n in range(i + 1))
        assert post("get", keys=[[3, 1], [-1, 3]]).json()["values"] == ["a3"]
        post("delete", keys=[[i, 1] for i in range(20)])
        assert post("find", key=[1, 0], topk=1).json() == {"keys": [], "values": [], "similarities": []}
