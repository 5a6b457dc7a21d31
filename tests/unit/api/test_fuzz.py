"""Made-up requests to every operation of the OpenAPI document: answered as documented, and never with a defect."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import schemathesis
from fastapi import FastAPI

from api.examples import EXAMPLES
from api.http import create_app
from api.openapi import FAILURES, SOMETIMES, UNPREFIXED
from api.settings import Settings
from tests.fuzzing import AUTHORIZED, config, fuzz
from tests.serving import KEY
from tests.unit.api.test_errors import MALFORMED
from tests.unit.echo_dispatch import EchoDispatch
from tests.unit.http_clients import http_client
from tests.unit.local_cluster import LocalCluster
from tests.unit.local_gallery import LocalGallery


@pytest.fixture
def app(tmp_path: Path) -> FastAPI:
    settings = Settings(models_path=tmp_path, data_path=tmp_path, api_keys=(KEY,))
    return create_app(settings, EchoDispatch(), LocalGallery(), LocalCluster())


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(app, headers=AUTHORIZED) as client:
        yield client


def operations(app: FastAPI) -> dict[str, tuple[str, str, dict[str, object]]]:
    """Name → method, path, and the rest of it."""
    paths = app.openapi()["paths"].items()
    found = [(method, path, rest) for path, methods in paths for method, rest in methods.items()]
    return {rest["operationId"]: (method, path, rest) for method, path, rest in found}


TWINS = f"{UNPREFIXED}$|^createEngine"
"""Operations whose handlers another one has, too."""


NEEDS_NAMES = {
    "DELETE /v1/assistants/{assistant_id}/files/{file_id}",
    "GET /generated-images/{name}",
    "GET /v1/backend/monitor",
    "POST /models/delete/{name}",
    "POST /v1/backend/load",
    "POST /v1/backend/shutdown",
}
"""Operations on what nobody can guess, or no other operation of the document makes."""


@pytest.mark.timeout(300)
def test_requests_made_up_from_the_document(app: FastAPI) -> None:
    """Any 5xx is a failure here, where nothing is cold, full or missing. The same requests each time."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config(seed=8, examples=5), headers=AUTHORIZED)
    outcome = fuzz(schema.exclude(operation_id_regex=TWINS))
    assert not (wrong := outcome.findings + outcome.errors), "\n\n".join(wrong)
    refused = {operation for operation, statuses in outcome.statuses.items() if min(statuses) >= 400}
    assert refused <= NEEDS_NAMES, "no request got past the checks"


async def test_bodies_that_no_schema_describes(app: FastAPI, client: httpx.AsyncClient) -> None:
    for method, path, operation in operations(app).values():
        body = operation.get("requestBody", {"content": {}})
        assert isinstance(body, dict)
        for media_type in body["content"]:
            for name, content in MALFORMED.items():
                response = await client.request(method, path, content=content, headers={"Content-Type": media_type})
                assert response.status_code == 400, (method, path, name, response.text)


FORMS = {
    "no boundary": ("multipart/form-data", b"--x\r\n"),
    "empty": ("multipart/form-data; boundary=x", b""),
    "cut off": ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"'),
    "no name": ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
    "NUL": (
        "multipart/form-data; boundary=x",
        b'--x\r\nContent-Disposition: form-data; name="\0"\r\n\r\n\0\r\n--x--\r\n',
    ),
    "other boundary": ("multipart/form-data; boundary=y", b"--x\r\n\r\n--x--\r\n"),
    "long boundary": ("multipart/form-data; boundary=" + "x" * 5000, b"--" + b"x" * 5000),
    "urlencoded": ("application/x-www-form-urlencoded", b"file=a&%ff=%00"),
    "JSON": ("application/json", b"{}"),
    "charset": ("multipart/form-data; boundary=x; charset=nonsense", b"--x\r\n"),
}


@pytest.mark.parametrize(("media_type", "content"), FORMS.values(), ids=FORMS.keys())
async def test_forms_that_are_none(app: FastAPI, client: httpx.AsyncClient, media_type: str, content: bytes) -> None:
    tried = 0
    for method, path, operation in operations(app).values():
        if "multipart/form-data" in str(operation.get("requestBody")):
            response = await client.request(method, path, content=content, headers={"Content-Type": media_type})
            assert response.status_code == 400, (path, response.text)
            tried += 1
    assert tried >= 7


ODD_NAMES = (
    "%00",
    "%ff",
    "..%2f..%2fetc%2fpasswd",
    "a" * 5000,
    "%F0%9F%90%B3",
    "a%20b",
    "-1",
    "%0d%0aX-Evil:%201",
    "*",
)


@pytest.mark.parametrize("name", ODD_NAMES, ids=lambda name: name[:20])
async def test_names_in_paths_that_nothing_has(app: FastAPI, client: httpx.AsyncClient, name: str) -> None:
    for method, path, operation in operations(app).values():
        parameters = operation.get("parameters", [])
        assert isinstance(parameters, list)
        places = [p["name"] for p in parameters if p["in"] == "path" and p["name"] != "voice-id"]
        if places and "{model}" not in path.removesuffix("/{model}"):
            url = path.format_map(dict.fromkeys(places, name))
            response = await client.request(method, url, json=EXAMPLES.get(str(operation["operationId"]), {}))
            # 405: a name with a slash in it is another path.
            assert response.status_code in (400, 404, 405), (method, path, response.text)
            json.loads(response.content)


async def test_the_examples_of_the_document_work(app: FastAPI, client: httpx.AsyncClient) -> None:
    named = operations(app)
    assert EXAMPLES.keys() <= named.keys()
    for name, example in EXAMPLES.items():
        method, path, _ = named[name]
        response = await client.request(method, path.replace("{voice-id}", "alloy"), json=example)
        assert response.status_code == 200, (name, response.text)


def test_the_table_of_statuses(app: FastAPI) -> None:
    named = operations(app)
    assert SOMETIMES.keys() <= named.keys()
    assert set().union(*SOMETIMES.values()) <= FAILURES.keys()
    for _, _, operation in named.values():
        responses = operation["responses"]
        assert isinstance(responses, dict)
        assert {"default", "422", "4XX", "5XX"}.isdisjoint(responses)
