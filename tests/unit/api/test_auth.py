"""Who may call what: keys, roles, allowed models."""

from typing import Any

import httpx2
import openai
import pytest
from fastapi import FastAPI

from api.keys import ANONYMOUS
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


# ---- roles -----------------------------------------------------------------------------------------------------------

ROLES = (
    {"key": "boss", "role": "admin"},
    {"key": "jim", "role": "user"},
    {"key": "eve", "role": "read-only"},
)

ADMINS = {
    "GET /api/keys",
    "GET /api/p2p/token",
    "POST /backend/load",
    "POST /backend/shutdown",
    "DELETE /models/galleries",
    "POST /models/apply",
    "POST /models/delete/{name}",
    "POST /models/galleries",
    "POST /models/import-uri",
    "POST /models/jobs/{uuid}/cancel",
    "POST /models/reload",
}
"""What changes what is installed or what runs, or shows what lets do it. Without `/v1`."""

USERS = {
    "DELETE /assistants/{assistant_id}",
    "DELETE /assistants/{assistant_id}/files/{file_id}",
    "DELETE /files/{file_id}",
    "POST /assistants",
    "POST /assistants/{assistant_id}",
    "POST /assistants/{assistant_id}/files",
    "POST /audio/speech",
    "POST /audio/transcriptions",
    "POST /audio/translations",
    "POST /chat/completions",
    "POST /completions",
    "POST /edits",
    "POST /embeddings",
    "POST /engines/{model}/completions",
    "POST /engines/{model}/embeddings",
    "POST /files",
    "POST /images/edits",
    "POST /images/generations",
    "POST /images/inpainting",
    "POST /images/variations",
    "POST /rerank",
    "POST /sound-generation",
    "POST /stores/delete",
    "POST /stores/find",
    "POST /stores/get",
    "POST /stores/set",
    "POST /text-to-speech/{voice-id}",
    "POST /tokenize",
    "POST /tts",
    "POST /v2/rerank",
    "POST /vad",
}
"""Inference, and users' own data."""


def operations(app: FastAPI) -> list[tuple[str, str]]:
    paths: dict[str, dict[str, Any]] = app.openapi()["paths"]
    return [(method.upper(), path) for path, methods in paths.items() for method in methods]


async def statuses(app: FastAPI, key: str, *, json: object = None) -> dict[str, int]:
    """What each operation answers to this key and a body that is of no use to any."""
    async with http_client(app, headers={"x-api-key": key}) as client:
        return {
            f"{method} {path.removeprefix('/v1')}": (await client.request(method, path, json=json)).status_code
            for method, path in operations(app)
        }


async def test_every_operation_is_for_users_or_for_admins(make_app: AppFactory) -> None:
    app = make_app(keys=ROLES)
    forbidden = {name for name, status in (await statuses(app, "jim", json={})).items() if status == 403}
    assert forbidden == ADMINS
    changing = {f"{method} {path.removeprefix('/v1')}" for method, path in operations(app) if method != "GET"}
    assert changing - ADMINS == USERS, "each route that isn't GET belongs into one of the tables"
    assert 403 not in (await statuses(app, "boss", json={})).values()


async def test_who_may_only_look_may_look(make_app: AppFactory) -> None:
    for name, status in (await statuses(make_app(keys=ROLES), "eve", json={})).items():
        assert (status == 403) == (name in ADMINS or not name.startswith("GET")), name


async def test_without_keys_everybody_is_an_admin(make_app: AppFactory) -> None:
    assert 403 not in (await statuses(make_app(), "whatever", json={})).values()


async def test_a_refusal_names_the_role(make_app: AppFactory) -> None:
    async with http_client(make_app(keys=ROLES)) as client:
        for key, word in (("jim", "admin"), ("eve", "read-only")):
            response = await client.post("/models/reload", headers={"x-api-key": key})
            assert response.status_code == 403
            assert response.json()["error"]["type"] == "permission_error"
            assert word in response.json()["error"]["message"]


# ---- allowed models --------------------------------------------------------------------------------------------------


async def listed(app: FastAPI, key: str) -> list[str]:
    async with http_client(app, headers={"x-api-key": key}) as client:
        return [model["id"] for model in (await client.get("/v1/models")).json()["data"]]


async def asked(app: FastAPI, key: str, path: str = "/v1/completions", **body: object) -> httpx2.Response:
    async with http_client(app, headers={"x-api-key": key}) as client:
        return await client.post(path, json={"prompt": "x", "input": "x", **body})  # type: ignore[return-value]


async def test_a_key_sees_and_uses_its_models_alone(make_app: AppFactory) -> None:
    app = make_app(keys=[{"key": "k", "models": ["echo", "org/*"]}])
    assert await listed(app, "k") == ["alias", "echo", "org/model.gguf"]
    for model, status, code in (
        ("echo", 200, None),
        ("alias", 200, None),  # what it stands for is allowed
        ("org/model.gguf", 200, None),
        ("embed", 400, "invalid_request"),  # it can't complete, and that is said to everybody
        ("nope", 404, "model_not_found"),
    ):
        response = await asked(app, "k", model=model)
        assert (response.status_code, response.json().get("error", {}).get("code")) == (status, code), model
    response = await asked(app, "k", "/v1/embeddings", model="embed")
    assert response.status_code == 403
    assert (response.json()["error"]["code"], response.json()["error"]["param"]) == ("model_not_allowed", "model")
    async with http_client(app, headers={"x-api-key": "k"}) as client:
        assert (await client.get("/v1/models/embed")).status_code == 404
        assert (await client.get("/v1/models/alias")).status_code == 200


async def test_a_name_may_be_allowed_and_what_it_stands_for_not(make_app: AppFactory) -> None:
    app = make_app(keys=[{"key": "k", "models": ["alias"]}])
    assert await listed(app, "k") == ["alias"]
    assert (await asked(app, "k", model="alias")).status_code == 200
    assert (await asked(app, "k", model="echo")).status_code == 403


async def test_without_a_name_the_first_that_is_allowed(make_app: AppFactory, gateway: LocalDispatch) -> None:
    app = make_app(keys=[{"key": "k", "models": ["org/*"]}, {"key": "l", "models": ["alias"]}])
    assert (await asked(app, "k")).json()["model"] == "org/model.gguf"
    assert (await asked(app, "l")).status_code == 200
    assert gateway.requests[-1][0] == "echo"
    assert (await asked(app, "l", "/v1/embeddings")).status_code == 403
