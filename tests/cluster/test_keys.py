"""API keys on a running server: taken up while it runs, and limits that hold over all ingresses and restarts."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.serving import Server, eventually

LIMIT = 20
ROWS = [
    "sk-plain",
    {"key": "sk-limited", "name": "limited", "requests_per_minute": LIMIT},
    {"key": "sk-tokens", "name": "tokens", "tokens_per_minute": 600},
    {"key": "sk-one", "name": "one", "models": ["echo-t*"]},
    {"key": "sk-reader", "name": "reader", "role": "read-only"},
]
CONTROLLER = "ServeReplica:api:ModelController"


@pytest.fixture(scope="module")
def keys(server: Server) -> Iterator[Server]:
    """The server with a key file that came while it ran."""
    path = server.config_path / "api_keys.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(ROWS))
    eventually(lambda: {say(server, "sk-plain", path="/v1/models").status_code for _ in range(10)} == {200})
    yield server
    path.unlink()
    eventually(lambda: {say(server, "sk-plain", path="/v1/models").status_code for _ in range(10)} == {401})


def say(server: Server, key: str, model: str = "echo", *, path: str = "", **fields: object) -> httpx.Response:
    """A chat, or a look at `path`; over a connection of its own, so that any ingress may get it."""
    with httpx.Client(base_url=server.url, headers={"x-api-key": key}, timeout=120, trust_env=False) as client:
        if path:
            return client.get(path)
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 50, **fields}
        return client.post("/v1/chat/completions", json=body)


def hammer(server: Server, key: str, times: int) -> list[httpx.Response]:
    with ThreadPoolExecutor(8) as clients:
        return list(clients.map(lambda _: say(server, key), range(times)))


def stored(server: Server) -> int:
    """Requests of the last minute that a new controller would know of."""
    with sqlite3.connect(server.data_path / "manta.db") as database:
        rows = database.execute("SELECT sums FROM quotas WHERE resource = 'requests'").fetchall()
    return max((sum(json.loads(sums).values()) for (sums,) in rows), default=0)


def test_a_limit_is_exact_over_all_ingresses_and_outlives_the_controller(keys: Server) -> None:
    assert say(keys, "sk-plain").status_code == 200
    responses = hammer(keys, "sk-limited", 2 * LIMIT)
    assert Counter(response.status_code for response in responses) == {200: LIMIT, 429: LIMIT}
    for response in responses:
        assert response.headers["x-ratelimit-limit-requests"] == str(LIMIT)
        assert (response.status_code == 429) == ("retry-after" in response.headers)
    assert 1 <= int(responses[-1].headers["retry-after"]) <= 62

    eventually(lambda: stored(keys) == LIMIT)
    (controller,) = keys.processes(CONTROLLER)
    controller.kill()
    controller.wait(10)
    responses = hammer(keys, "sk-limited", 8)
    assert {response.status_code for response in responses} == {429}, "the next controller knows of the minute"
    listed = {key["name"]: key["used"] for key in say(keys, "sk-plain", path="/api/keys").json()}
    assert listed["limited"] == {"requests": LIMIT, "tokens": None}


def test_tokens_are_counted_as_they_were_used(keys: Server) -> None:
    spent = 0
    for _ in range(60):
        response = say(keys, "sk-tokens")
        if response.status_code == 429:
            break
        spent += response.json()["usage"]["total_tokens"]
    assert response.status_code == 429 and "600 tokens per minute" in response.text
    # Each request reserves more than it takes, and the rest comes back within a second or two.
    eventually(lambda: say(keys, "sk-tokens").status_code == 200, 20)
    assert 0 < spent <= 660


def test_models_and_roles(keys: Server) -> None:
    assert {model["id"] for model in say(keys, "sk-one", path="/v1/models").json()["data"]} == {"echo-tiny"}
    assert say(keys, "sk-one", "echo").json()["error"]["code"] == "model_not_allowed"
    assert say(keys, "sk-reader", path="/v1/models").status_code == 200
    assert say(keys, "sk-reader").status_code == 403
    for key in ("sk-one", "sk-reader"):
        assert say(keys, key, path="/api/keys").status_code == 403
