"""Errors as clients see them, and that every error can be seen."""

import inspect
import json
import logging
import pickle

import httpx
import pytest

from api.errors import client_error, error_response, let_go
from deployments import errors
from deployments.errors import EngineError, MantaError, ModelNotFound
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_dispatch import LocalDispatch

ALL = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, MantaError)]
SHAPE = {"message", "type", "param", "code"}


@pytest.mark.parametrize("cls", ALL)
def test_every_error_crosses_processes_and_has_a_response(cls: type[MantaError]) -> None:
    error = pickle.loads(pickle.dumps(cls("why").at("field").after(1.5)))
    assert type(error) is cls
    assert (error.message, error.param, error.retry_after) == ("why", "field", 1.5)
    response = error_response(error)
    assert 400 <= response.status_code < 600
    assert json.loads(bytes(response.body)) == {
        "error": {"message": "why", "type": cls.type, "param": "field", "code": cls.code}
    }
    assert response.headers["retry-after"] == "2"
    assert ("www-authenticate" in response.headers) == (cls.status == 401)
    assert cls.__doc__


class Wrapped(Exception):
    """As Ray wraps what a replica raised."""

    def __init__(self, cause: Exception) -> None:
        super().__init__("Traceback (most recent call last): …")
        self.cause = cause


def test_ray_s_wrapper_is_taken_off() -> None:
    inner = ModelNotFound("which?")
    assert client_error(Wrapped(inner)) is inner
    assert client_error(Wrapped(ValueError("secret"))).message == "internal error"


async def test_what_is_not_ours_stays_inside(
    gateway: LocalDispatch, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    gateway.result = gateway.script[0] = ZeroDivisionError("secret")
    for stream in (False, True):
        caplog.clear()
        response = await client.post("/v1/completions", json={"prompt": "x", "stream": stream})
        assert response.status_code == 500
        assert response.json()["error"]["message"] == "internal error"
        record = next(record for record in caplog.records if record.message == "internal error")
        assert record.exc_info and record.exc_info[0] is ZeroDivisionError
        assert record.levelno == logging.ERROR


async def test_an_engine_s_error(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = EngineError("out of cells")
    response = await client.post("/v1/completions", json={"prompt": "x"})
    assert response.status_code == 500
    assert response.json()["error"] == {
        "message": "out of cells",
        "type": "server_error",
        "param": None,
        "code": "engine_error",
    }


async def test_unknown_route_and_wrong_method(client: httpx.AsyncClient) -> None:
    missing = await client.get("/v1/nope")
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert "/v1/nope" in missing.json()["error"]["message"]
    wrong = await client.get("/v1/chat/completions")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    asset = await client.get("/swagger/assets/nope.js")
    assert set(asset.json()["error"]) == SHAPE


MALFORMED = {
    "empty": b"",
    "blank": b"  \n",
    "cut off": b'{"prompt": "x"',
    "trailing comma": b'{"prompt": "x",}',
    "NaN": b'{"prompt": "x", "temperature": NaN}',
    "infinite": b'{"prompt": "x", "temperature": 1e999}',
    "not UTF-8": b'{"prompt": "\xff"}',
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "array": b"[]",
    "string": b'"x"',
    "number": b"5",
    "null": b"null",
    "form": b"prompt=x",
    "deep": b'{"prompt": "x", "metadata": ' + b"[" * 200 + b"]" * 200 + b"}",
    "very deep": b"[" * 100_000,
    "deep schema": b'{"prompt": "x", "logit_bias": ' + b'{"a":' * 150 + b"1" + b"}" * 151,
    "huge integer": b'{"prompt": "x", "n": ' + b"9" * 400 + b"}",
    "NUL": b"\x00",
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED.keys())
async def test_malformed_bodies_are_the_client_s_mistake(client: httpx.AsyncClient, body: bytes) -> None:
    response = await client.post("/v1/completions", content=body)
    assert response.status_code == 400, response.text
    assert set(response.json()["error"]) == SHAPE
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert "Traceback" not in response.text


async def test_malformed_json_names_the_place(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/completions", content=b'{"prompt": x}')
    assert "line 1 column 12" in response.json()["error"]["message"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "nonsense"])
async def test_content_type_does_not_matter(client: httpx.AsyncClient, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    response = await client.post("/v1/completions", content=b'{"prompt": "x"}', headers=headers)
    assert response.status_code == 200


async def test_brackets_in_strings_are_not_depth(client: httpx.AsyncClient) -> None:
    assert (await client.post("/v1/completions", json={"prompt": "[{" * 1000})).status_code == 200


async def test_a_middleware_s_failure_is_an_answer_too(make_app: AppFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, scope: object) -> str:
        raise RuntimeError("secret")

    monkeypatch.setattr("api.auth.KeyMiddleware.key", broken)
    async with http_client(make_app()) as client:
        response = await client.get("/version")
    assert response.status_code == 500
    assert response.json()["error"]["message"] == "internal error"


def test_errors_that_cause_each_other_are_let_go_of() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    let_go(one)
