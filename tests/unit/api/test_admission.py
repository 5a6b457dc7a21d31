"""The limit on requests at once."""

import asyncio
from typing import Any

import httpx
import pytest
from starlette.types import Message, Scope

from api.admission import ALWAYS_TAKEN, AdmissionMiddleware
from deployments.backends.base import Delta, DeltaGroup
from deployments.errors import ServerBusy
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.waiting import until


class Inner:
    """An application whose requests end when they are told to."""

    def __init__(self) -> None:
        self.let_go = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, *_: Any) -> None:
        await self.let_go.wait()
        if self.error:
            raise self.error


@pytest.fixture
def inner() -> Inner:
    return Inner()


async def nothing(*_: Any) -> Message:
    return {"type": "http.request"}


def scope(path: str = "/v1/chat/completions") -> Scope:
    return {"type": "http", "path": path}


async def test_one_more_than_the_limit_is_refused(inner: Inner) -> None:
    middleware = AdmissionMiddleware(inner, 2)
    running = [asyncio.create_task(middleware(scope(), nothing, nothing)) for _ in range(2)]
    await until(lambda: middleware.running == 2)
    with pytest.raises(ServerBusy, match="2 requests at once") as refused:
        await middleware(scope(), nothing, nothing)
    assert (refused.value.status, refused.value.retry_after) == (503, 1.0)
    inner.let_go.set()
    await asyncio.gather(*running)
    await middleware(scope(), nothing, nothing)
    assert middleware.running == 0


async def test_a_place_is_given_back_whatever_happens(inner: Inner) -> None:
    middleware = AdmissionMiddleware(inner, 2)
    gone = asyncio.create_task(middleware(scope(), nothing, nothing))
    failing = asyncio.create_task(middleware(scope(), nothing, nothing))
    await until(lambda: middleware.running == 2)
    gone.cancel()
    inner.error = RuntimeError("the route broke")
    inner.let_go.set()
    results = await asyncio.gather(gone, failing, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError, RuntimeError]
    assert middleware.running == 0


async def test_zero_is_no_limit(inner: Inner) -> None:
    middleware = AdmissionMiddleware(inner, 0)
    running = [asyncio.create_task(middleware(scope(), nothing, nothing)) for _ in range(50)]
    await until(lambda: middleware.running == 50)
    inner.let_go.set()
    await asyncio.gather(*running)


async def test_what_watches_the_server_is_always_taken(inner: Inner) -> None:
    middleware = AdmissionMiddleware(inner, 1)
    running = asyncio.create_task(middleware(scope(), nothing, nothing))
    await until(lambda: middleware.running == 1)
    watching = [asyncio.create_task(middleware(scope(path), nothing, nothing)) for path in ALWAYS_TAKEN]
    inner.let_go.set()
    await asyncio.gather(running, *watching)


async def test_a_stream_holds_its_place_until_its_end_or_its_client_leaves(
    make_app: AppFactory, gateway: LocalDispatch
) -> None:
    gate = asyncio.Event()
    gateway.script = [DeltaGroup([Delta(0, "Hello")]), gate]
    body = {"prompt": "x", "stream": True}
    app = make_app(max_concurrent_requests=1)
    async with Served(app) as served, httpx.AsyncClient(base_url=served.url) as client:
        async with client.stream("POST", "/v1/completions", json=body) as streamed:
            assert streamed.status_code == 200
            await anext(streamed.aiter_lines())
            refused = await client.post("/v1/completions", json=body)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "server_busy"
            assert (await client.get("/healthz")).status_code == 200
        await gateway.ended.wait()  # the client has left
        gate.set()
        assert (await client.post("/v1/completions", json=body)).status_code == 200


async def test_a_request_without_a_key_takes_no_place(make_app: AppFactory, gateway: LocalDispatch) -> None:
    gateway.wait = asyncio.Event()
    async with http_client(make_app(api_keys=("key",), max_concurrent_requests=1)) as client:
        authorized = {"Authorization": "Bearer key"}
        running = asyncio.create_task(client.post("/v1/completions", json={"prompt": "x"}, headers=authorized))
        await until(lambda: gateway.requests)
        assert (await client.post("/v1/completions", json={"prompt": "x"})).status_code == 401
        assert (await client.get("/v1/models", headers=authorized)).status_code == 503
        gateway.wait.set()
        assert (await running).status_code == 200
