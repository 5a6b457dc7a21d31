"""The line logged per request, and clients that leave."""

import asyncio
import io
import json
import logging
import sys
from typing import Any

import httpx
import pytest

from api.request_log import configure_logging
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_dispatch import LocalDispatch


def lines(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name == "manta.request"]


@pytest.fixture(autouse=True)
def _info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)


async def test_one_line_per_request(make_app: AppFactory, caplog: pytest.LogCaptureFixture) -> None:
    async with http_client(make_app(api_keys=("k",))) as client:
        response = await client.get("/v1/models?filter=x", headers={"x-api-key": "k"})
        await client.get("/v1/models")
        await client.get("/healthz")
    answered, refused = lines(caplog)
    assert (answered.method, answered.path, answered.status) == ("GET", "/v1/models", 200)
    assert answered.bytes == len(response.content)
    assert answered.ms >= 0
    assert len(answered.tenant) == 12
    assert refused.status == 401
    assert refused.tenant is None


async def test_every_line_of_a_request_has_its_id(
    gateway: LocalDispatch, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging("INFO")
    try:
        gateway.result = ValueError("boom")
        await client.post("/v1/completions", json={"prompt": "x"}, headers={"X-Request-ID": "abc"})
        logging.getLogger("other").info("outside")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    records = {record["message"]: record for record in map(json.loads, stream.getvalue().splitlines())}
    assert records["internal error"]["request_id"] == "abc"
    assert "ValueError: boom" in records["internal error"]["exc_info"]
    assert records["request"]["request_id"] == "abc"
    assert records["request"]["status"] == 500
    assert records["outside"]["request_id"] is None
    assert {"time", "level", "logger"} <= set(records["outside"])


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_its_work_and_is_logged_as_499(
    make_app: AppFactory, gateway: LocalDispatch, caplog: pytest.LogCaptureFixture, stream: bool
) -> None:
    gateway.wait = asyncio.Event()
    gateway.script.append(gateway.wait)
    async with Served(make_app()) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        body = json.dumps({"prompt": "x", "stream": stream}).encode()
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: m\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        if stream:
            await asyncio.wait_for(reader.readuntil(b" world"), 5)
        else:
            async with asyncio.timeout(5):
                while not gateway.requests:
                    await asyncio.sleep(0)
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(gateway.ended.wait(), 5)
        async with asyncio.timeout(5):
            while not lines(caplog):
                await asyncio.sleep(0)
    assert lines(caplog)[0].status == 499
