"""What is counted of HTTP requests."""

import asyncio
import json

import httpx
import pytest

from api.http_metrics import OTHER_METHOD, UNMATCHED
from deployments.metrics import INSTANCE
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.metric_values import Counted, labelled, values
from tests.unit.waiting import until

IN_FLIGHT = labelled("manta_http_requests_in_flight", instance=INSTANCE)


@pytest.fixture
def counted() -> Counted:
    return Counted("api_call", "manta_http")


@pytest.mark.parametrize(
    ("method", "path", "route", "code"),
    [
        ("GET", "/v1/models", "/v1/models", 200),
        ("GET", "/models", "/models", 200),
        ("GET", "/v1/models/org/model.gguf", "/v1/models/{model}", 200),
        ("GET", "/v1/models/nope", "/v1/models/{model}", 404),
        ("POST", "/v1/engines/echo/completions", "/v1/engines/{model}/completions", 400),
        ("POST", "/v1/text-to-speech/nobody", "/v1/text-to-speech/{voice_id}", 400),
        ("GET", "/generated-images/x.png", "/generated-images/{name}", 404),
        ("DELETE", "/v1/models", "/v1/models", 405),
        ("GET", "/swagger/assets/swagger-ui.css", "/swagger/assets", 200),
        ("GET", "/v1/nothing/here", UNMATCHED, 404),
        ("GET", "/etc/passwd", UNMATCHED, 404),
    ],
)
async def test_requests_are_counted_by_their_route(
    client: httpx.AsyncClient, counted: Counted, method: str, path: str, route: str, code: int
) -> None:
    assert (await client.request(method, path)).status_code == code
    expected = {
        labelled("api_call_count", method=method, path=route): 1,
        labelled("manta_http_requests_total", method=method, route=route, code=str(code)): 1,
    }
    assert expected.items() <= counted.more().items()


async def test_made_up_methods_are_one(client: httpx.AsyncClient, counted: Counted) -> None:
    for method in ("PURGE", "BREW", "get"):
        await client.send(httpx.Request(method, "http://manta/v1/models"))
    assert counted.more()[labelled("api_call_count", method=OTHER_METHOD, path="/v1/models")] == 2


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
async def test_what_watches_the_server_is_not_seen(client: httpx.AsyncClient, counted: Counted, path: str) -> None:
    await client.get(path)
    assert not any({path, UNMATCHED} & set(dict(labels).values()) for _, labels in counted.more())


async def test_who_is_refused_reached_no_route(make_app: AppFactory, counted: Counted) -> None:
    async with http_client(make_app(api_keys=("k",))) as client:
        await client.get("/v1/models")
    assert counted.more()[labelled("manta_http_requests_total", method="GET", route=UNMATCHED, code="401")] == 1


async def test_a_failure_of_ours_is_counted(
    client: httpx.AsyncClient, gateway: LocalDispatch, counted: Counted
) -> None:
    gateway.result = ValueError("a bug")
    await client.post("/v1/completions", json={"prompt": "x"})
    series = labelled("manta_http_requests_total", method="POST", route="/v1/completions", code="500")
    assert counted.more()[series] == 1


async def test_a_stream_is_in_flight_until_its_last_byte(
    make_app: AppFactory, gateway: LocalDispatch, counted: Counted
) -> None:
    series = labelled("manta_http_requests_total", method="POST", route="/v1/completions", code="200")
    gateway.script.insert(1, go_on := asyncio.Event())
    async with Served(make_app()) as served, httpx.AsyncClient(base_url=served.url) as client:
        body = {"prompt": "x", "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as response:
            lines = response.aiter_lines()
            assert (await anext(lines)).startswith("data:")
            assert counted.more()[IN_FLIGHT] == 1
            assert series not in counted.more()
            go_on.set()
            assert [line async for line in lines][-2] == "data: [DONE]"
        await until(lambda: IN_FLIGHT not in counted.more())
    assert counted.more()[series] == 1


async def test_who_left_is_counted_as_499(make_app: AppFactory, gateway: LocalDispatch, counted: Counted) -> None:
    gateway.wait = asyncio.Event()
    async with Served(make_app()) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        body = json.dumps({"prompt": "x"}).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await until(lambda: gateway.requests)
        assert values("manta_http")[IN_FLIGHT] >= 1
        writer.close()
        await writer.wait_closed()
        series = labelled("manta_http_requests_total", method="POST", route="/v1/completions", code="499")
        await until(lambda: counted.more().get(series))
    assert IN_FLIGHT not in counted.more()
