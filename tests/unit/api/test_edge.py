"""What the edge puts around every answer: headers, CORS, compression."""

import gzip
from typing import Any

import httpx
import pytest

from api.security_headers import HEADERS, NO_PAGE, PAGES
from api.settings import load_settings
from deployments.backends.base import Choice, TextResult, Usage
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_dispatch import LocalDispatch

LONG = "a word, and another. " * 200
SITE = "https://app.example"


# ---- headers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/models", 200),
        ("GET", "/healthz", 200),
        ("GET", "/nope", 404),
        ("PATCH", "/v1/models", 405),
        ("POST", "/v1/completions", 400),
        ("GET", "/swagger/", 200),
        ("GET", "/swagger/assets/swagger-ui.css", 200),
    ],
)
async def test_every_answer_has_them(client: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in HEADERS} == HEADERS
    page = path.startswith("/swagger/")
    assert answer.headers["content-security-policy"] == (PAGES["/swagger/"] if page else NO_PAGE)
    assert (answer.headers.get("cache-control") == "no-store") == (status >= 400)


async def test_a_refusal_has_them_too(make_app: AppFactory) -> None:
    async with http_client(make_app(api_keys=("key",))) as client:
        answer = await client.get("/v1/models")
    assert answer.status_code == 401
    assert HEADERS.items() <= {name: answer.headers[name] for name in HEADERS}.items()


async def test_a_stream_keeps_its_own(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/completions", json={"prompt": "x", "stream": True})
    assert answer.headers.get_list("cache-control") == ["no-cache"]
    assert answer.headers["x-content-type-options"] == "nosniff"


# ---- CORS ------------------------------------------------------------------------------------------------------------

PREFLIGHT = {
    "Origin": SITE,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
}


@pytest.mark.parametrize(
    ("origins", "allowed"), [((), "*"), ((SITE,), SITE), (("https://one.example", SITE), SITE), (("*",), "*")]
)
async def test_a_preflight_needs_no_key(make_app: AppFactory, origins: tuple[str, ...], allowed: str) -> None:
    app = make_app(cors=True, cors_allow_origins=origins, api_keys=("key",))
    async with http_client(app, headers={"Origin": SITE}) as client:
        answer = await client.options("/v1/chat/completions", headers=PREFLIGHT)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == allowed
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        for headers, status in (({}, 401), ({"Authorization": "Bearer key"}, 200)):
            answer = await client.get("/v1/models", headers=headers)
            assert answer.status_code == status
            assert answer.headers["access-control-allow-origin"] == allowed, "or the page can't read the error"
            assert "access-control-allow-credentials" not in answer.headers


async def test_sites_that_are_not_listed_are_not_let_in(make_app: AppFactory) -> None:
    async with http_client(make_app(cors=True, cors_allow_origins=("https://one.example",))) as client:
        assert (await client.options("/v1/models", headers=PREFLIGHT)).status_code == 400
        assert "access-control-allow-origin" not in (await client.get("/v1/models", headers={"Origin": SITE})).headers


async def test_without_cors_no_page_is_let_in(client: httpx.AsyncClient) -> None:
    answer = await client.options("/v1/models", headers=PREFLIGHT)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


# ---- compression -----------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.result = TextResult([Choice(0, LONG, "stop")], Usage(1, 1))
    return gateway


async def complete(client: httpx.AsyncClient, **fields: Any) -> httpx.Response:
    return await client.post("/v1/completions", json={"prompt": "x"} | fields)


async def test_compression_is_off_unless_asked_for(make_app: AppFactory) -> None:
    async with http_client(make_app()) as client:
        assert "content-encoding" not in (await complete(client)).headers


async def test_long_answers_are_compressed_for_those_who_take_it(make_app: AppFactory) -> None:
    async with http_client(make_app(compression=True)) as client:
        answer = await complete(client)
        assert answer.headers["content-encoding"] == "gzip"
        assert answer.headers["vary"] == "Accept-Encoding"
        assert answer.json()["choices"][0]["text"] == LONG
        assert int(answer.headers["content-length"]) < len(LONG)
        plain = await client.post("/v1/completions", json={"prompt": "x"}, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert "content-encoding" not in (await client.get("/version")).headers, "too short"


async def test_streams_and_files_are_not(make_app: AppFactory) -> None:
    async with http_client(make_app(compression=True, compression_min_bytes=0)) as client:
        assert "content-encoding" not in (await complete(client, stream=True)).headers
        text = LONG.encode()
        upload = await client.post("/v1/files", files={"file": ("a.txt", text)}, data={"purpose": "p"})
        file_id = upload.json()["id"]
        whole = await client.get(f"/v1/files/{file_id}/content")
        assert "content-encoding" not in whole.headers
        assert whole.content == text
        part = await client.get(f"/v1/files/{file_id}/content", headers={"Range": "bytes=0-99"})
        assert (part.status_code, part.content) == (206, text[:100])
        assert "content-encoding" not in part.headers


async def test_a_compressed_answer_is_gzip(make_app: AppFactory) -> None:
    async with http_client(make_app(compression=True)) as client:
        request = client.build_request("POST", "/v1/completions", json={"prompt": "x"})
        answer = await client.send(request, stream=True)
        raw = b"".join([part async for part in answer.aiter_raw()])
    assert LONG in gzip.decompress(raw).decode()


def test_localais_variables() -> None:
    assert load_settings(env={"HTTP_COMPRESSION_MIN_LENGTH": "4096"}).compression_min_bytes == 4096
    assert load_settings(env={"MAX_CONCURRENT_BACKEND_REQUESTS": "7"}).max_concurrent_requests == 7
