"""Body limits, in-process and over a real socket."""

from collections.abc import AsyncIterator

import httpx
import pytest

from api.body_limit import PREFIXES, BodyLimitMiddleware
from api.settings import Settings
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_dispatch import LocalDispatch

MIB = 2**20


async def chunks(total: int, size: int = 65_536) -> AsyncIterator[bytes]:
    yield b'{"prompt": "'
    for _ in range(0, total, size):
        yield b"x" * size
    yield b'"}'


async def test_the_limit_itself(make_app: AppFactory) -> None:
    frame = b'{"prompt": ""}'
    async with http_client(make_app(json_limit_mb=1)) as client:
        for extra, status in ((0, 200), (1, 413)):
            body = b'{"prompt": "' + b"x" * (MIB - len(frame) + extra) + b'"}'
            response = await client.post("/v1/completions", content=body)
            assert response.status_code == status
    assert response.json()["error"]["code"] == "request_too_large"
    assert "1 MiB" in response.json()["error"]["message"]


async def test_a_body_of_unknown_length_is_cut_off(make_app: AppFactory, gateway: LocalDispatch) -> None:
    async with http_client(make_app(json_limit_mb=1)) as client:
        assert (await client.post("/v1/completions", content=chunks(MIB // 2))).status_code == 200
        gateway.requests.clear()
        assert (await client.post("/v1/completions", content=chunks(2 * MIB))).status_code == 413
    assert gateway.requests == []


@pytest.mark.parametrize("declared", [True, False])
async def test_a_real_client_reads_the_refusal(make_app: AppFactory, declared: bool) -> None:
    """It has sent all before it looks for an answer: a server that just hangs up shows it a broken pipe."""
    async with Served(make_app(json_limit_mb=1)) as served, httpx.AsyncClient(base_url=served.url) as client:
        content = b"x" * 8 * MIB if declared else chunks(8 * MIB)
        response = await client.post("/v1/completions", content=content)
        assert response.status_code == 413
        assert (await client.get("/healthz")).status_code == 200


async def test_expect_continue_is_refused_without_the_body(make_app: AppFactory) -> None:
    async with Served(make_app(json_limit_mb=1)) as served:
        answer = await served.raw(
            b"POST /v1/completions HTTP/1.1\r\nHost: manta\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
        )
    assert answer.startswith(b"HTTP/1.1 413")


def test_every_path_has_the_limit_of_its_kind() -> None:
    settings = Settings()
    middleware = BodyLimitMiddleware(lambda scope, receive, send: None, settings)  # type: ignore[arg-type,return-value]
    for path, name in PREFIXES:
        for prefix in ("", "/v1"):
            assert middleware.limit(prefix + path) == getattr(settings, name) * MIB
    assert middleware.limit("/v1/files/file-1/content") == 512 * MIB
    assert middleware.limit("/v1/audio/speech") == 20 * MIB
    assert middleware.limit("/v1/chat/completions") == 20 * MIB
