"""API keys."""

import httpx2
import openai
import pytest

from api.auth import ANONYMOUS
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_dispatch import LocalDispatch

KEYS = ("first-key", "schlüssel")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer  first-key "},
        {"x-api-key": "first-key"},
        {"xi-api-key": "first-key"},
        {"Authorization": "Bearer wrong", "x-api-key": "first-key"},
        {"Authorization": "Bearer schlüssel".encode()},
    ],
)
async def test_the_ways_to_send_a_key(make_app: AppFactory, headers: dict[str, str | bytes]) -> None:
    async with http_client(make_app(api_keys=KEYS)) as client:
        assert (await client.get("/v1/models", headers=headers)).status_code == 200  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer first-ke"},
        {"Authorization": "Bearer first-key2"},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"Authorization": b"Bearer \xff\xfe"},
        {"x-api-key": ""},
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/version", "/", "/openapi.json", "/swagger/", "/healthz/", "/nope"])
async def test_no_way_without_one(make_app: AppFactory, headers: dict[str, str | bytes], path: str) -> None:
    async with http_client(make_app(api_keys=KEYS)) as client:
        response = await client.get(path, headers=headers)  # type: ignore[arg-type]
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["code"] == "invalid_api_key"


async def test_health_needs_no_key(make_app: AppFactory) -> None:
    async with http_client(make_app(api_keys=KEYS)) as client:
        for path in ("/healthz", "/readyz"):
            assert (await client.get(path)).status_code == 200


async def test_openai_client_sees_an_authentication_error(make_app: AppFactory) -> None:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(make_app(api_keys=KEYS)))
    client = openai.AsyncOpenAI(base_url="http://manta/v1", api_key="wrong", http_client=http)
    async with client:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()
        assert (await client.with_options(api_key="first-key").models.list()).data


async def test_tenants_are_told_apart_and_hold_no_key(make_app: AppFactory, gateway: LocalDispatch) -> None:
    tenants = []
    for key in ("one", "two", "one"):
        async with http_client(make_app(api_keys=("one", "two"))) as client:
            await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-api-key": key})
        tenants.append(gateway.request.tenant)
    assert tenants[0] == tenants[2] != tenants[1]
    assert not {"one", "two", ANONYMOUS} & set(tenants)
    async with http_client(make_app()) as client:
        await client.post("/v1/completions", json={"prompt": "x"}, headers={"x-api-key": "one"})
    assert gateway.request.tenant == ANONYMOUS
