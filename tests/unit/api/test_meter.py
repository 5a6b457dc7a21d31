"""What requests use of their key's quotas, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from api.meter import ANSWER_TOKENS, estimate
from deployments.backends.base import (
    ChatRequest,
    CompletionRequest,
    Delta,
    DeltaGroup,
    EditRequest,
    EmbedRequest,
    RerankRequest,
    Scores,
    SoundRequest,
    TokenizeRequest,
    Usage,
    Vectors,
)
from deployments.errors import DeadlineExceeded, EngineError
from deployments.metrics import REGISTRY
from deployments.states import Report
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_cluster import LocalCluster
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.waiting import until

JIM = {"key": "j", "name": "Jim", "requests_per_minute": 3, "tokens_per_minute": 1000}
CHAT = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 100}
EMBEDDING = Vectors(b"\0\0\0\0", 1, prompt_tokens=11)


@pytest.fixture
def app(make_app: AppFactory) -> FastAPI:
    return make_app(keys=[JIM, {"key": "f", "name": "Free"}])


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(app, headers={"x-api-key": "j"}) as client:
        yield client


def used(app: FastAPI, cluster: LocalCluster) -> dict[str, int]:
    """After the ingress's next report, when what it was lent ahead has gone back."""
    for held in app.state.leases._held.values():
        held.until = 0.0
    report = Report("i")
    arrived = app.state.leases.report(report)
    cluster.quotas.settle(report.settled)
    arrived()
    return dict(next(iter(cluster.quotas.used().values()), {}))


def counted(name: str, **labels: str) -> float:
    """What the metric has counted so far in this process."""
    return REGISTRY.get_sample_value(f"manta_{name}_total", labels) or 0.0


# ---- requests --------------------------------------------------------------------------------------------------------


async def test_over_the_limit(client: httpx.AsyncClient) -> None:
    before = counted("rate_limited", key="Jim", limit="requests"), counted("key_requests", key="Jim")
    responses = [await client.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}) for _ in range(5)]
    assert [response.status_code for response in responses] == [200] * 3 + [429] * 2
    assert [response.headers["x-ratelimit-remaining-requests"] for response in responses] == ["2", "1", "0", "0", "0"]
    refused = responses[-1]
    assert refused.headers["x-ratelimit-limit-requests"] == "3"
    assert refused.headers["x-ratelimit-limit-tokens"] == "1000"
    assert 1 <= int(refused.headers["retry-after"]) <= 62
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert (counted("rate_limited", key="Jim", limit="requests"), counted("key_requests", key="Jim")) == (
        before[0] + 2,
        before[1] + 3,
    )


async def test_what_calls_no_model_is_not_counted(client: httpx.AsyncClient, app: FastAPI, cluster: Any) -> None:
    for _ in range(10):
        response = await client.get("/v1/models")
        assert response.status_code == 200 and "x-ratelimit-limit-requests" not in response.headers
        assert (await client.post("/v1/completions", json={"prompt": "x", "model": "nope"})).status_code == 404
        assert (await client.post("/v1/completions", json={"prompt": 5})).status_code == 400
    assert used(app, cluster) == {}


async def test_a_stream_over_the_limit_is_refused_by_its_status(client: httpx.AsyncClient) -> None:
    responses = [await client.post("/v1/chat/completions", json=CHAT | {"stream": True}) for _ in range(4)]
    assert [response.status_code for response in responses] == [200] * 3 + [429]
    assert responses[0].headers["x-ratelimit-remaining-requests"] == "2"


async def test_a_request_that_calls_a_model_twice_is_one(
    make_app: AppFactory, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    from deployments.backends.base import ModelCard, Task

    gateway.installed = [ModelCard("painter", [Task.IMAGE], 0, "echo")]
    gateway.result = EngineError("out of paint")
    app = make_app(keys=[JIM])
    async with http_client(app, headers={"x-api-key": "j"}) as client:
        await client.post("/v1/images/generations", json={"prompt": "a|b", "n": 2, "size": "64x64"})
    assert len(gateway.requests) >= 1
    assert used(app, cluster)["requests"] == 1


async def test_a_key_without_limits_asks_nobody(app: FastAPI, cluster: LocalCluster) -> None:
    before = counted("key_requests", key="Free")
    async with http_client(app, headers={"x-api-key": "f"}) as client:
        for _ in range(5):
            response = await client.post("/v1/completions", json={"prompt": "x"})
            assert response.status_code == 200
    assert "x-ratelimit-limit-requests" not in response.headers
    assert used(app, cluster) == {}
    assert counted("key_requests", key="Free") == before + 5


async def test_who_needs_no_key_is_counted_as_anonymous(make_app: AppFactory) -> None:
    before = counted("key_tokens", key="anonymous", kind="completion")
    async with http_client(make_app()) as client:
        await client.post("/v1/completions", json={"prompt": "x"})
    assert counted("key_tokens", key="anonymous", kind="completion") == before + 2


async def test_when_the_limits_can_t_be_looked_up(app: FastAPI, client: httpx.AsyncClient, monkeypatch: Any) -> None:
    async def away(_: object) -> None:
        raise DeadlineExceeded("the model controller did not answer within 60 s")

    monkeypatch.setattr(app.state.leases, "_lease", away)
    response = await client.post("/v1/completions", json={"prompt": "x"})
    assert response.status_code == 503
    assert response.headers["retry-after"] == "5"


# ---- tokens ----------------------------------------------------------------------------------------------------------


async def test_tokens_are_settled_by_what_was_used(
    app: FastAPI, client: httpx.AsyncClient, cluster: LocalCluster
) -> None:
    before = counted("key_tokens", key="Jim", kind="prompt")
    for stream in (False, True):
        await client.post("/v1/chat/completions", json=CHAT | {"stream": stream})
    assert used(app, cluster) == {"requests": 2, "tokens": 2 * (7 + 2)}
    assert counted("key_tokens", key="Jim", kind="prompt") == before + 2 * 7


async def test_running_requests_hold_what_they_may_take(
    app: FastAPI, client: httpx.AsyncClient, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    gateway.wait = asyncio.Event()
    running = asyncio.create_task(client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 900}))
    await until(lambda: gateway.requests)
    assert 900 < used(app, cluster)["tokens"] <= 1000
    refused = await client.post("/v1/chat/completions", json=CHAT)
    assert refused.status_code == 429
    assert "1000 tokens per minute" in refused.json()["error"]["message"]
    gateway.wait.set()
    assert (await running).status_code == 200
    assert used(app, cluster) == {"requests": 1, "tokens": 9}


async def test_one_request_larger_than_the_limit_has_the_minute_to_itself(
    app: FastAPI, client: httpx.AsyncClient, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    assert (await client.post("/v1/chat/completions", json=CHAT | {"max_tokens": 100_000})).status_code == 200
    assert used(app, cluster)["tokens"] == 9


async def test_more_than_the_estimate_counts_too(
    app: FastAPI, client: httpx.AsyncClient, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    gateway.result.usage = Usage(500, 2000)
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 200
    assert used(app, cluster)["tokens"] == 2500
    assert (await client.post("/v1/chat/completions", json=CHAT)).status_code == 429


async def test_what_fails_before_its_first_token_costs_none(
    app: FastAPI, client: httpx.AsyncClient, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    gateway.result, gateway.script = EngineError("boom"), [EngineError("boom")]
    for stream in (False, True):
        assert (await client.post("/v1/chat/completions", json=CHAT | {"stream": stream})).status_code == 500
    assert used(app, cluster) == {"requests": 2, "tokens": 0}


async def test_a_stream_that_breaks_off_costs_what_was_written(
    app: FastAPI, client: httpx.AsyncClient, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    gateway.script = [DeltaGroup([Delta(0, "Hel", token_ids=[1, 2])]), EngineError("boom")]
    await client.post("/v1/chat/completions", json=CHAT | {"stream": True})
    prompt, _ = estimate(gateway.request)
    assert used(app, cluster)["tokens"] == prompt + 2


async def test_a_client_who_leaves_pays_for_what_was_written(
    app: FastAPI, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    gateway.script = [DeltaGroup([Delta(0, "Hel", token_ids=[1, 2, 3])]), asyncio.Event()]
    async with Served(app) as served:
        async with (
            httpx.AsyncClient(base_url=served.url, headers={"x-api-key": "j"}, trust_env=False) as client,
            client.stream("POST", "/v1/chat/completions", json=CHAT | {"stream": True}) as response,
        ):
            await anext(response.aiter_lines())
        await until(gateway.ended.is_set)
    prompt, _ = estimate(gateway.request)
    assert used(app, cluster)["tokens"] == prompt + 3


@pytest.mark.parametrize(
    ("path", "body", "result", "tokens"),
    [
        ("/v1/embeddings", {"input": "x"}, EMBEDDING, 11),
        ("/v1/rerank", {"query": "q", "documents": ["a", "b"]}, Scores([0.1, 0.2], prompt_tokens=13), 13),
        ("/v1/tokenize", {"content": "x"}, [1, 2], 0),
    ],
)
async def test_other_routes(
    app: FastAPI,
    client: httpx.AsyncClient,
    gateway: LocalDispatch,
    cluster: LocalCluster,
    path: str,
    body: dict[str, Any],
    result: object,
    tokens: int,
) -> None:
    gateway.result = result
    assert (await client.post(path, json=body)).status_code == 200
    taken = used(app, cluster)
    assert (taken["requests"], taken.get("tokens", 0)) == (1, tokens)


async def test_embeddings_that_come_in_pieces(
    app: FastAPI, client: httpx.AsyncClient, gateway: LocalDispatch, cluster: LocalCluster
) -> None:
    gateway.script = [Vectors(b"\0\0\0\0" * 150, 1, prompt_tokens=tokens) for tokens in (150, 170)]
    assert (await client.post("/v1/embeddings", json={"input": ["x"] * 300})).status_code == 200
    assert used(app, cluster)["tokens"] == 320


# ---- estimates -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (ChatRequest(messages=[{"role": "user", "content": "x" * 400}], max_tokens=50, n=2), (100, 100)),
        (
            ChatRequest(messages=[{"content": [{"type": "text", "text": "é" * 400}]}]),
            (200, ANSWER_TOKENS),
        ),
        (CompletionRequest(prompts=["x" * 400, [1, 2, 3]], max_tokens=10, n=3), (103, 60)),
        (EditRequest(inputs=["x" * 40, "y" * 40], instruction="z" * 80, max_tokens=5), (60, 10)),
        (EmbedRequest(inputs=["x" * 400, b"\0" * 40]), (110, 0)),
        (RerankRequest(query="x" * 40, documents=["y" * 400, "z" * 400]), (220, 0)),
        (TokenizeRequest("x"), (0, 0)),
        (SoundRequest(text="x"), (0, 0)),
    ],
)
def test_estimates(request_: object, tokens: tuple[int, int]) -> None:
    prompt, completion = estimate(request_)
    assert completion == tokens[1]
    assert tokens[0] <= prompt <= tokens[0] + 10
