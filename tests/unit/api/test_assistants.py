"""Assistants over HTTP: LocalAI's assertions, OpenAI's client, limits, and requests that make no sense."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI
from jsonschema import Draft7Validator

from tests.unit.http_clients import AppFactory, http_client

FIELDS: dict[str, Any] = {
    "model": "echo",
    "name": "Ann",
    "description": "answers",
    "instructions": "Be kind.",
    "tools": [{"type": "code_interpreter"}, {"type": "retrieval"}, {"type": "function", "function": {"name": "f"}}],
    "metadata": {"team": "a"},
}


@pytest.fixture
async def app(make_app: AppFactory) -> AsyncIterator[FastAPI]:
    app = make_app()
    yield app
    await app.state.files.close()


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(app) as client:
        yield client


async def create(client: httpx.AsyncClient, **more: Any) -> dict[str, Any]:
    answer = await client.post("/v1/assistants", json={"model": "echo", **more})
    assert answer.status_code == 200, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def listed(client: httpx.AsyncClient, **query: Any) -> list[str]:
    answer = await client.get("/v1/assistants", params=query)
    assert answer.status_code == 200, answer.text
    return [assistant["id"] for assistant in answer.json()]


async def upload(client: httpx.AsyncClient, name: str) -> str:
    answer = await client.post("/v1/files", files={"file": (name, b"x")}, data={"purpose": "assistants"})
    return str(answer.json()["id"])


def refusal(answer: httpx.Response) -> tuple[int, str, str]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["message"]


# ---- LocalAI's assertions (assistant_test.go) ------------------------------------------------------------------------


async def test_an_assistant_is_created_as_it_was_asked_for(client: httpx.AsyncClient) -> None:
    file_id = await upload(client, "a.txt")
    before = int(time.time())
    created = await create(client, **FIELDS, file_ids=[file_id])
    assert {name: created[name] for name in FIELDS} == FIELDS
    assert created["file_ids"] == [file_id]
    assert (created["id"], created["object"]) == ("asst_1", "assistant")
    assert before <= created["created"] <= time.time()
    for prefix in ("/v1", ""):
        assert (await client.get(f"{prefix}/assistants/asst_1")).json() == created


async def test_lists(client: httpx.AsyncClient) -> None:
    assert await listed(client) == []
    ids = [(await create(client))["id"] for _ in range(4)]
    assert await listed(client) == ids[::-1]
    assert await listed(client, limit=2) == ids[:1:-1]
    assert await listed(client, order="asc") == ids
    assert await listed(client, limit=2, order="asc") == ids[:2]
    assert await listed(client, after=2) == [ids[3], ids[2]]
    assert await listed(client, before=4) == [ids[2], ids[1], ids[0]]
    assert await listed(client, after=1, before=4, order="asc") == ids[1:3]
    assert await listed(client, after=100) == []
    two = await client.get("/v1/assistants?limit=two")
    assert two.status_code == 400
    assert "Invalid limit query value: two" in two.text


async def test_ids_are_cursors_as_openai_has_them(client: httpx.AsyncClient) -> None:
    ids = [(await create(client))["id"] for _ in range(4)]
    assert await listed(client, after=ids[2]) == [ids[1], ids[0]]
    assert await listed(client, after=ids[1], order="asc") == ids[2:]
    assert await listed(client, before=ids[1]) == [ids[3], ids[2]]
    await client.delete(f"/v1/assistants/{ids[2]}")
    assert await listed(client, after=ids[2]) == [ids[1], ids[0]], "one that is gone"
    for cursor in ("asst_x", "two", "٣", "-1", "\0", "asst_" + "9" * 99):
        assert refusal(await client.get("/v1/assistants", params={"after": cursor}))[:2] == (400, "after")


async def test_an_assistant_is_changed(client: httpx.AsyncClient) -> None:
    created = await create(client, **FIELDS)
    path = f"/v1/assistants/{created['id']}"
    changes = {"name": "Bob", "instructions": "Be brief.", "description": "new", "tools": [{"type": "retrieval"}]}
    changed = (await client.post(path, json=changes)).json()
    assert changed == created | changes
    assert (await client.post(path, json={})).json() == changed, "what is left out stays"
    cleared = (await client.post(path, json={"name": None, "tools": None, "metadata": None, "model": None})).json()
    assert "name" not in cleared
    assert (cleared["tools"], cleared["metadata"], cleared["model"]) == ([], {}, "echo")
    assert (await client.get(path)).json() == cleared


async def test_an_assistant_is_deleted(client: httpx.AsyncClient) -> None:
    path = f"/v1/assistants/{(await create(client))['id']}"
    assert (await client.delete(path)).json() == {"id": "asst_1", "object": "assistant.deleted", "deleted": True}
    for answer in (await client.get(path), await client.post(path, json={}), await client.delete(path)):
        assert refusal(answer) == (404, "assistant_id", "Unable to find assistant with id: asst_1")
    assert (await create(client))["id"] == "asst_2"


async def test_files_of_an_assistant(client: httpx.AsyncClient) -> None:
    await create(client)
    path = "/v1/assistants/asst_1/files"
    empty = (await client.get(path)).json()
    assert empty == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}
    ids = [await upload(client, name) for name in "abc"]
    attached = [(await client.post(path, json={"file_id": file_id})).json() for file_id in ids]
    for file_id, file in zip(ids, attached, strict=True):
        assert (file["id"], file["object"], file["assistant_id"]) == (file_id, "assistant.file", "asst_1")
    assert (await client.get(f"{path}/{ids[0]}")).json() == attached[0]

    async def page(**query: Any) -> tuple[list[str], bool]:
        answer = (await client.get(path, params=query)).json()
        found = [file["id"] for file in answer["data"]]
        assert [answer["first_id"], answer["last_id"]] == ([found[0], found[-1]] if found else [None, None])
        return found, answer["has_more"]

    assert await page() == (ids[::-1], False)
    assert await page(order="asc") == (ids, False)
    assert await page(limit=2) == (ids[:0:-1], True)
    assert await page(limit=2, after=ids[1]) == (ids[:1], False)
    assert await page(before=ids[1]) == (ids[2:], False)
    assert await page(order="asc", after=ids[2], before=ids[0]) == ([], False)

    gone = await client.delete(f"{path}/{ids[1]}")
    assert gone.json() == {"id": ids[1], "object": "assistant.file.deleted", "deleted": True}
    assert (await client.get(f"/v1/files/{ids[1]}")).status_code == 200, "the file itself stays"
    for answer in (await client.get(f"{path}/{ids[1]}"), await client.delete(f"{path}/{ids[1]}")):
        assert refusal(answer)[:2] == (404, "file_id")
    await client.delete(f"/v1/files/{ids[2]}")
    assert (await client.get("/v1/assistants/asst_1")).json()["file_ids"] == ids[:1]


# ---- OpenAI's client -------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of OpenAI's client about its own methods
async def test_openais_client(app: FastAPI) -> None:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    async with openai.AsyncOpenAI(base_url="http://manta/v1", api_key="-", http_client=http, max_retries=0) as client:
        created = await client.beta.assistants.create(model="alias", name="Ann", tools=[{"type": "code_interpreter"}])
        assert (created.model, created.name, created.tools[0].type) == ("alias", "Ann", "code_interpreter")
        assert await client.beta.assistants.retrieve(created.id) == created
        assert (await client.beta.assistants.update(created.id, name="Bob")).name == "Bob"
        assert (await client.beta.assistants.delete(created.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.beta.assistants.retrieve(created.id)


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": "missing"}, "model"),
        ({"model": "\0"}, "model"),
        ({"name": "x" * 257}, "name"),
        ({"name": 5}, "name"),
        ({"description": "x" * 513}, "description"),
        ({"instructions": "x" * 32_769}, "instructions"),
        ({"tools": [{"type": "retrieval"}] * 129}, "tools"),
        ({"tools": [{"type": "file_search"}]}, "tools[0].type"),
        ({"tools": [{}]}, "tools[0].type"),
        ({"file_ids": ["file-1"] * 21}, "file_ids"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"metadata": {"x" * 65: ""}}, None),
        ({"metadata": {"x": "x" * 513}}, "metadata.x"),
        ({"metadata": {"x": 1}}, "metadata.x"),
        ({"metadata": []}, "metadata"),
    ],
)
async def test_what_no_assistant_can_be(client: httpx.AsyncClient, fields: dict[str, Any], param: str | None) -> None:
    await create(client)
    for path in ("/v1/assistants", "/v1/assistants/asst_1"):
        if path.endswith("asst_1") and fields == {"model": None}:
            continue  # it stays
        status, at, message = refusal(await client.post(path, json={"model": "echo", **fields}))
        assert status == 400
        assert (at if param else at.startswith("metadata.")) == (param or True)
        assert message
    assert await listed(client) == ["asst_1"]


async def test_what_just_fits(client: httpx.AsyncClient) -> None:
    fields = {
        "name": "ü" * 256,
        "description": "ü" * 512,
        "instructions": "ü" * 32_768,
        "tools": [{"type": "retrieval"}] * 128,
        "metadata": {f"{number:064}": "ü" * 512 for number in range(16)},
    }
    created = await create(client, **fields)
    assert {name: created[name] for name in fields} == fields


async def test_the_words_of_refusals(client: httpx.AsyncClient) -> None:
    model = refusal(await client.post("/v1/assistants", json={"model": "x"}))
    assert model == (400, "model", 'Model "x" not found')
    tool = refusal(await client.post("/v1/assistants", json={"model": "echo", "tools": [{"type": "x"}]}))
    assert "'code_interpreter', 'retrieval' or 'function'" in tool[2]
    file = refusal(await client.post("/v1/assistants", json={"model": "echo", "file_ids": ["x"]}))
    assert file == (404, "file_ids", "Unable to find file_id: x")
    for body in (b"", b"{", b"[]", b"null", b"\xff"):
        assert (await client.post("/v1/assistants", content=body)).status_code == 400


@pytest.mark.parametrize(
    "absurd", ["x" * 10_000, "%00", "%F0%9F%A6%91", "asst_0", "asst_01", "asst_" + "9" * 30, "asst_1%0A"]
)
async def test_ids_that_are_none(client: httpx.AsyncClient, absurd: str) -> None:
    await create(client)
    assistant = f"/v1/assistants/{absurd}"
    for answer in (
        await client.get(assistant),
        await client.post(assistant, json={"name": "x"}),
        await client.delete(assistant),
        await client.get(f"{assistant}/files"),
        await client.post(f"{assistant}/files", json={"file_id": "x"}),
        await client.get(f"/v1/assistants/asst_1/files/{absurd}"),
        await client.delete(f"/v1/assistants/asst_1/files/{absurd}"),
        await client.get(f"/v1/files/{absurd}"),
        await client.get(f"/v1/files/{absurd}/content"),
        await client.delete(f"/v1/files/{absurd}"),
    ):
        assert refusal(answer)[0] == 404


# ---- the swagger -----------------------------------------------------------------------------------------------------

ASSISTANT = {
    "type": "object",
    "properties": {
        **{name: {"type": "string"} for name in ("description", "id", "instructions", "model", "name", "object")},
        "created": {"type": "integer"},
        "file_ids": {"type": "array", "items": {"type": "string"}},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "tools": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"type": {"type": "string", "enum": ["code_interpreter", "retrieval", "function"]}},
            },
        },
    },
}
"""`openai.Assistant` of LocalAI's swagger, which knows no null."""


@pytest.mark.parametrize("fields", [{"model": "echo"}, FIELDS, {"model": "echo", "name": None, "metadata": None}])
async def test_answers_are_of_the_swaggers_shape(client: httpx.AsyncClient, fields: dict[str, Any]) -> None:
    created = await create(client, **fields)
    Draft7Validator(ASSISTANT).validate(created)
    Draft7Validator({"type": "array", "items": ASSISTANT}).validate((await client.get("/v1/assistants")).json())
    assert {"tools", "file_ids", "metadata"} <= created.keys()


async def test_a_function_keeps_its_schema(client: httpx.AsyncClient) -> None:
    function = {"name": "f", "description": None, "parameters": {"type": "object", "properties": {"n": {"a": None}}}}
    created = await create(client, tools=[{"type": "function", "function": function}])
    assert created["tools"][0]["function"] == function


async def test_state_outlives_the_process(make_app: AppFactory, tmp_path: Path) -> None:
    first = make_app()
    async with http_client(first) as client:
        file_id = await upload(client, "a.txt")
        created = await create(client, **FIELDS, file_ids=[file_id])
    await first.state.files.close()
    second = make_app()
    async with http_client(second) as client:
        assert (await client.get("/v1/assistants")).json() == [created]
        assert (await client.get(f"/v1/files/{file_id}/content")).content == b"x"
        assert json.loads((await client.get("/v1/files")).content)["data"][0]["id"] == file_id
    await second.state.files.close()
