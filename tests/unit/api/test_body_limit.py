"""Body limits, in-process and over a real socket."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from api import body_limit
from api.body_limit import PREFIXES, SLOWEST, BodyLimitMiddleware
from api.settings import Settings
from deployments.errors import BodyTooSlow
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
    for path, name, room in PREFIXES:
        for prefix in ("", "/v1"):
            assert middleware.limit(prefix + path) == getattr(settings, name) * MIB + room
    assert middleware.limit("/v1/files/file-1/content") == 513 * MIB
    assert middleware.limit("/v1/audio/speech") == 20 * MIB
    assert middleware.limit("/v1/chat/completions") == 20 * MIB


@pytest.mark.parametrize("path", ["//v1/files", "/v1//files", "/V1/files", "/Files", "/v1/v1/files", "/x/files"])
async def test_no_way_of_writing_a_path_lifts_its_limit(make_app: AppFactory, path: str) -> None:
    """The router takes none of these to a route that has the larger limit."""
    async with http_client(make_app(json_limit_mb=1)) as client:
        request = httpx.Request("POST", "http://manta/", content=chunks(2 * MIB))
        request.url = request.url.copy_with(raw_path=path.encode())
        assert (await client.send(request)).status_code in (404, 413)


async def test_an_encoded_path_has_the_limit_of_its_route(make_app: AppFactory) -> None:
    async with http_client(make_app(json_limit_mb=1, upload_limit_mb=2)) as client:
        files = {"file": ("a", b"x" * (MIB + MIB // 2))}
        encoded = await client.post("/v1/%66iles", files=files, data={"purpose": "p"})
        assert encoded.status_code == 200


# ---- time ------------------------------------------------------------------------------------------------------------


class SlowClient:
    """Sends `parts`, then nothing any more."""

    def __init__(self, *parts: bytes) -> None:
        self.messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]

    async def __call__(self) -> Message:
        if self.messages:
            return self.messages.pop(0)
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")


async def receive_all(client: Receive, patience: float) -> list[Message]:
    """What the application gets of a request."""
    got = []

    async def reads_it_all(_: Scope, receive: Receive, __: Send) -> None:
        got.append(await receive())
        while got[-1].get("more_body"):
            got.append(await receive())

    middleware = BodyLimitMiddleware(reads_it_all, Settings(), patience=patience)
    await middleware({"type": "http", "path": "/x", "headers": []}, client, never)
    return got


async def never(_: Message) -> None:
    raise AssertionError("the middleware answers nothing itself")


async def test_a_body_that_stops_is_given_up() -> None:
    with pytest.raises(BodyTooSlow, match="5 bytes") as raised:
        await receive_all(SlowClient(b"abc", b"de"), patience=0.01)
    assert raised.value.status == 408


async def test_bytes_buy_time() -> None:
    """Two seconds' worth of them came before the client paused for longer than its patience."""
    paused = asyncio.Event()
    messages = [
        {"type": "http.request", "body": b"x" * 2 * SLOWEST, "more_body": True},
        {"type": "http.request", "body": b"end"},
    ]

    async def client() -> Message:
        if len(messages) == 1:
            asyncio.get_running_loop().call_later(0.05, paused.set)
            await paused.wait()
        return messages.pop(0)

    assert len(await receive_all(client, patience=0.01)) == 2


async def test_a_client_that_waits_for_its_answer_has_all_the_time() -> None:
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": b"{}"}]

    async def client() -> Message:
        if not messages:
            asyncio.get_running_loop().call_later(0.05, gone.set)
            await gone.wait()
            return {"type": "http.disconnect"}
        return messages.pop(0)

    async def waits_for_the_end(_: Scope, receive: Receive, __: Send) -> None:
        assert (await receive())["body"] == b"{}"
        assert (await receive())["type"] == "http.disconnect"

    middleware = BodyLimitMiddleware(waits_for_the_end, Settings(), patience=0.01)
    await middleware({"type": "http", "path": "/x", "headers": []}, client, never)


async def test_a_slow_client_reads_why(make_app: AppFactory) -> None:
    app = make_app()
    for middleware in app.user_middleware:
        if middleware.cls is BodyLimitMiddleware:
            middleware.kwargs["patience"] = 0.05
    async with Served(app) as served:
        answer = await served.raw(b"POST /v1/completions HTTP/1.1\r\nHost: manta\r\nContent-Length: 99\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: -1",
        b"Content-Length: 5x",
        b"Content-Length: 5\r\nContent-Length: 6",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked, identity",
    ],
)
async def test_lengths_that_contradict_themselves(make_app: AppFactory, headers: bytes) -> None:
    """Two servers in a row might understand them differently."""
    async with Served(make_app()) as served:
        answer = await served.raw(b"POST /v1/completions HTTP/1.1\r\nHost: manta\r\n" + headers + b"\r\n\r\nhello")
    assert answer.startswith(b"HTTP/1.1 400")


async def test_a_chunked_body_is_counted_as_it_comes(make_app: AppFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_limit, "LINGER_S", 0.05)
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    async with Served(make_app(json_limit_mb=1)) as served:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: manta\r\nTransfer-Encoding: chunked\r\n\r\n"
        answer = await served.raw(head + chunk * 17)
    assert answer.startswith(b"HTTP/1.1 413"), "though the last chunk never came"
