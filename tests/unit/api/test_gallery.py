"""The gallery's routes: LocalAI's shapes, lenient requests, and mistakes."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from gallery.request import File
from gallery.settings import Gallery
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_gallery import DONE, QUEUED, RUNNING, LocalGallery

SHA = "ab" * 32


# ---- LocalAI's shapes ------------------------------------------------------------------------------------------------

STRING, STRINGS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
GALLERY = {"type": "object", "required": ["name", "url"], "properties": {"name": STRING, "url": STRING}}
FILE = {
    "type": "object",
    "required": ["filename", "sha256", "uri"],
    "properties": {"filename": STRING, "sha256": STRING, "uri": STRING},
}
MODEL_FIELDS = {
    "config_file": {"type": "object"},
    "description": STRING,
    "files": {"type": "array", "items": FILE},
    "gallery": GALLERY,
    "icon": STRING,
    "installed": {"type": "boolean"},
    "license": STRING,
    "name": STRING,
    "overrides": {"type": "object"},
    "tags": STRINGS,
    "url": STRING,
    "urls": STRINGS,
}
MODEL = {"type": "object", "required": list(MODEL_FIELDS), "properties": MODEL_FIELDS}
STATUS_FIELDS = {
    "deletion": {"type": "boolean"},
    "downloaded_size": STRING,
    "error": {"type": ["string", "null"]},
    "file_name": STRING,
    "file_size": STRING,
    "gallery_model_name": STRING,
    "message": STRING,
    "processed": {"type": "boolean"},
    "progress": {"type": "number", "minimum": 0, "maximum": 100},
}
STATUS = {"type": "object", "required": list(STATUS_FIELDS), "properties": STATUS_FIELDS}
STARTED = {
    "type": "object",
    "required": ["uuid", "status"],
    "properties": {"uuid": STRING, "status": STRING},
    "additionalProperties": False,
}
GALLERIES = {"type": "array", "items": GALLERY}
"""Definitions of LocalAI's swagger, with every field required that it lists."""


@pytest.mark.parametrize(
    ("method", "path", "body", "schema"),
    [
        ("POST", "/models/apply", {"id": "test@one"}, STARTED),
        ("POST", "/models/delete/tiny", None, STARTED),
        ("POST", "/models/import-uri", {"uri": "huggingface://owner/repo/x.gguf"}, STARTED),
        ("GET", "/models/available", None, {"type": "array", "items": MODEL}),
        ("GET", "/models/galleries", None, GALLERIES),
        ("POST", "/models/galleries", {"name": "b", "url": "https://b/index.yaml"}, GALLERIES),
        ("DELETE", "/models/galleries", {"name": "test"}, GALLERIES),
        ("GET", "/models/jobs", None, {"type": "object", "additionalProperties": STATUS, "minProperties": 4}),
        ("GET", "/models/jobs/u-1", None, STATUS),
        ("POST", "/models/jobs/u-1/cancel", None, STATUS),
    ],
)
async def test_every_operation_answers_in_the_documented_shape(
    client: httpx.AsyncClient, method: str, path: str, body: object, schema: dict[str, Any]
) -> None:
    response = await client.request(method, path, json=body) if body else await client.request(method, path)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    jsonschema.validate(response.json(), schema)


async def test_the_document_knows_the_same_operations(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    for operation in (
        "post /models/apply",
        "post /models/delete/{name}",
        "get /models/available",
        "get /models/galleries",
        "post /models/galleries",
        "delete /models/galleries",
        "get /models/jobs",
        "get /models/jobs/{uuid}",
    ):
        method, path = operation.split()
        assert method in paths[path]
    events = paths["/models/jobs/{uuid}/events"]["get"]["responses"]["200"]["content"]
    assert list(events) == ["text/event-stream"]


# ---- apply, import, delete -------------------------------------------------------------------------------------------


async def test_apply_takes_all_of_localai_s_fields(client: httpx.AsyncClient, gallery: LocalGallery) -> None:
    body = {
        "id": "test@one",
        "url": "github:owner/repo/base.yaml@main",
        "config_url": "https://x/config.yaml",
        "config_file": {"backend": "llama-cpp"},
        "name": "mine",
        "overrides": {"parameters": {"model": "x.gguf"}},
        "files": [{"filename": "sub/x.gguf", "sha256": SHA, "uri": "https://x/x.gguf"}],
        "description": "d",
        "license": "mit",
        "icon": "i",
        "urls": ["https://x"],
        "tags": ["t"],
        "gallery": {"name": "test", "url": "u"},
        "installed": False,
        "from_the_future": 1,
    }
    response = await client.post("/models/apply", json=body)
    assert response.json() == {"uuid": "u-1", "status": "http://manta/models/jobs/u-1"}
    (request,) = gallery.requests
    assert (request.id, request.url, request.config_url) == (body["id"], body["url"], body["config_url"])
    assert (request.config_file, request.name, request.overrides) == (body["config_file"], "mine", body["overrides"])
    assert request.files == (File("sub/x.gguf", "https://x/x.gguf", SHA),)
    assert (request.description, request.license, request.icon) == ("d", "mit", "i")
    assert (request.urls, request.tags) == (("https://x",), ("t",))


async def test_what_is_null_is_left_out_and_the_content_type_matters_not(
    client: httpx.AsyncClient, gallery: LocalGallery
) -> None:
    nulls = dict.fromkeys(("url", "config_url", "config_file", "name", "overrides", "files", "urls", "tags", "icon"))
    response = await client.post("/models/apply", content=json.dumps({"id": "one", **nulls}))
    assert response.status_code == 200
    (request,) = gallery.requests
    assert (request.id, request.files, request.overrides, request.name) == ("one", (), {}, "")


async def test_a_file_may_come_in_parts(client: httpx.AsyncClient, gallery: LocalGallery) -> None:
    file = {"filename": "x.gguf", "parts": ["https://x/1", "https://x/2"]}
    await client.post("/models/apply", json={"config_file": {"name": "x"}, "files": [file]})
    assert gallery.requests[0].files == (File("x.gguf", parts=("https://x/1", "https://x/2")),)


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({}, "id", "Nothing to install"),
        ({"name": "x", "overrides": {"a": 1}}, "id", "Nothing to install"),
        ({"id": 7}, "id", "expected a string"),
        ({"id": "x", "files": {}}, "files", "expected an array"),
        ({"id": "x", "files": [{}]}, "files[0].filename", "Missing"),
        ({"id": "x", "overrides": []}, "overrides", "expected an object"),
        ({"config_file": "name: x"}, "config_file", "expected an object"),
        ({"id": "x", "name": "../x"}, "name", "model's name"),
        ({"id": "x", "name": "a\\b"}, "name", "model's name"),
        ({"id": "x", "name": "jobs"}, "name", "route"),
        ({"id": "x", "files": [{"filename": "../x"}]}, "files[0].filename", "inside the models directory"),
        ({"id": "x", "files": [{"filename": "/etc/x"}]}, "files[0].filename", "inside the models directory"),
        ({"id": "x", "files": [{"filename": "a/../../x"}]}, "files[0].filename", "inside the models directory"),
        ({"id": "x", "files": [{"filename": ""}]}, "files[0].filename", "inside the models directory"),
        ({"id": "x", "files": [{"filename": "x", "uri": "x.gguf"}]}, "files[0].uri", "no scheme"),
        ({"id": "x", "files": [{"filename": "x", "parts": ["/x"]}]}, "files[0].parts[0]", "no scheme"),
        ({"url": "base.yaml"}, "url", "no scheme"),
        ({"config_url": "/etc/passwd"}, "config_url", "no scheme"),
    ],
)
async def test_mistakes_of_apply(
    client: httpx.AsyncClient, gallery: LocalGallery, body: Any, param: str, words: str
) -> None:
    response = await client.post("/models/apply", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert words in error["message"]
    assert gallery.requests == []


async def test_import_by_address_alone(client: httpx.AsyncClient, gallery: LocalGallery) -> None:
    preferences = {"name": "liked", "backend": "transformers", "description": "d", "quantizations": "Q4_K_M"}
    for body in (
        {"uri": "hf.co/owner/repo", "name": "mine", "preferences": preferences},
        {"uri": "hf.co/owner/repo", "preferences": preferences, "overrides": {"backend": "vllm"}},
        {"uri": "ollama://gemma:2b", "preferences": None},
    ):
        assert (await client.post("/models/import-uri", json=body)).json()["uuid"] == "u-1"
    one, two, three = gallery.requests
    assert (one.weights_uri, one.name, one.overrides) == ("hf.co/owner/repo", "mine", {"backend": "transformers"})
    assert one.description == "d"
    assert (two.name, two.overrides) == ("liked", {"backend": "vllm"})
    assert (three.weights_uri, three.name, three.overrides) == ("ollama://gemma:2b", "", {})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "uri"),
        ({"uri": ""}, "uri"),
        ({"uri": "model.gguf"}, "uri"),
        ({"uri": "/etc/passwd"}, "uri"),
        ({"uri": "https://x/y", "name": ".hidden"}, "name"),
        ({"uri": "https://x/y", "preferences": 1}, "preferences"),
    ],
)
async def test_mistakes_of_import(client: httpx.AsyncClient, body: object, param: str) -> None:
    response = await client.post("/models/import-uri", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


async def test_delete(client: httpx.AsyncClient) -> None:
    assert (await client.post("/models/delete/tiny")).json()["uuid"] == "u-2"
    assert (await client.post("/models/delete/org%2Fmodel.gguf")).json()["uuid"] == "u-2"
    unknown = await client.post("/models/delete/nope")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")


# ---- models and galleries --------------------------------------------------------------------------------------------


async def test_available_is_a_plain_array_and_headers_say_the_rest(
    client: httpx.AsyncClient, gallery: LocalGallery
) -> None:
    gallery.unreadable = {"wörld": "404"}
    query = {"search": "s", "tag": "t", "gallery": "test", "offset": "2", "limit": "5"}
    response = await client.get("/models/available", params=query)
    assert [model["name"] for model in response.json()] == ["one"]
    assert response.headers["x-total-count"] == "100"
    assert json.loads(response.headers["x-unreadable-galleries"]) == ["wörld"]
    (wanted,) = gallery.wanted
    assert (wanted.search, wanted.tag, wanted.gallery, wanted.offset, wanted.limit) == ("s", "t", "test", 2, 5)
    gallery.unreadable = {}
    assert "x-unreadable-galleries" not in (await client.get("/models/available")).headers
    assert gallery.wanted[1].limit is None


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "offset=-1"])
async def test_mistakes_of_paging(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/models/available?{query}")
    assert (response.status_code, response.json()["error"]["param"]) == (400, query.partition("=")[0])


async def test_galleries_come_and_go(client: httpx.AsyncClient, gallery: LocalGallery) -> None:
    gallery.unreadable = {"test": "404 Not Found"}
    (first,) = (await client.get("/models/galleries")).json()
    assert (first["name"], first["problem"], first["allow_pickles"]) == ("test", "404 Not Found", False)
    body = {"name": "own", "url": "github:owner/repo/index.yaml@main", "allow_pickles": True}
    added = (await client.post("/models/galleries", json=body)).json()
    assert [row["name"] for row in added] == ["test", "own"]
    assert gallery.known[1] == Gallery("own", "github:owner/repo/index.yaml@main", allow_pickles=True)
    again = await client.post("/models/galleries", json=body)
    assert (again.status_code, again.json()["error"]["param"]) == (409, "name")
    left = await client.request("DELETE", "/models/galleries", json={"name": "test"})
    assert [row["name"] for row in left.json()] == ["own"]
    unknown = await client.request("DELETE", "/models/galleries", json={"name": "test"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "gallery_not_found")


@pytest.mark.parametrize(
    ("body", "param"),
    [({"url": "https://x"}, "name"), ({"name": " ", "url": "https://x"}, "name"), ({"name": "x", "url": "y"}, "url")],
)
async def test_mistakes_of_galleries(client: httpx.AsyncClient, body: object, param: str) -> None:
    response = await client.post("/models/galleries", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, param)


# ---- jobs ------------------------------------------------------------------------------------------------------------


async def test_a_running_job(client: httpx.AsyncClient) -> None:
    job = (await client.get("/models/jobs/u-1")).json()
    assert job == {
        "deletion": False,
        "error": None,
        "file_name": "tiny.gguf",
        "file_size": "1.0 GiB",
        "downloaded_size": "512.0 MiB",
        "gallery_model_name": "tiny",
        "message": "processing",
        "processed": False,
        "progress": 50.0,
        "uuid": "u-1",
        "phase": "downloading",
        "current_bytes": 512 << 20,
        "total_bytes": 1 << 30,
        "rate": 1e6,
        "eta": 512.0,
        "warnings": [],
        "cancelled": False,
        "cancellable": True,
        "created": 1_800_000_000.0,
        "updated": 1_800_000_001.0,
    }


async def test_jobs_that_have_ended(client: httpx.AsyncClient) -> None:
    jobs = (await client.get("/models/jobs")).json()
    assert list(jobs) == ["u-1", "u-2", "u-3", "u-4"]
    done, failed, queued = jobs["u-2"], jobs["u-3"], jobs["u-4"]
    assert (done["message"], done["processed"], done["progress"], done["error"]) == ("completed", True, 100.0, None)
    assert (done["warnings"], done["cancellable"]) == (["unknown key foo"], False)
    assert failed["message"] == "error: GET https://x/y: 404 Not Found"
    assert (failed["error"], failed["processed"]) == ("GET https://x/y: 404 Not Found", True)
    assert (queued["file_size"], queued["downloaded_size"], queued["progress"]) == ("", "0 B", 0.0)


async def test_cancel(client: httpx.AsyncClient) -> None:
    job = (await client.post("/models/jobs/u-1/cancel")).json()
    assert (job["message"], job["processed"], job["cancelled"], job["error"]) == ("cancelled", True, True, None)
    assert (await client.post("/models/jobs/u-2/cancel")).status_code == 409


@pytest.mark.parametrize("path", ["/models/jobs/nope", "/models/jobs/nope/events"])
async def test_no_such_job(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()["error"]["code"]) == (404, "job_not_found")


async def test_events(client: httpx.AsyncClient) -> None:
    response = await client.get("/models/jobs/u-1/events")
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in response.text.split("\n\n") if block]
    assert [lines[0] for lines in events] == ["event: progress", "event: progress", "event: end"]
    statuses = [json.loads(lines[1].removeprefix("data: ")) for lines in events]
    assert [status["phase"] for status in statuses] == [QUEUED.phase, RUNNING.phase, DONE.phase]
    assert statuses[1] == (await client.get("/models/jobs/u-1")).json()


async def test_a_quiet_job_s_watcher_hears_comments_and_may_leave(make_app: AppFactory, gallery: LocalGallery) -> None:
    gallery.script = [RUNNING, asyncio.Event()]
    async with Served(make_app(keepalive=0.01)) as served, httpx.AsyncClient(base_url=served.url) as client:
        async with client.stream("GET", "/models/jobs/u-1/events") as response:
            lines = response.aiter_lines()
            seen = [await anext(lines) for _ in range(5)]
        assert ": nothing new" in seen
        await asyncio.wait_for(gallery.ended.wait(), 5)


async def test_an_error_after_the_first_event_is_an_event(client: httpx.AsyncClient, gallery: LocalGallery) -> None:
    gallery.script = [RUNNING, RuntimeError("secret")]
    text = (await client.get("/models/jobs/u-1/events")).text
    assert '"internal error"' in text and "secret" not in text


# ---- where the server is, and who may ask ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "url"),
    [
        ({}, "http://manta"),
        ({"X-Forwarded-Proto": "https"}, "https://manta"),
        ({"X-Forwarded-Proto": "https, http", "X-Forwarded-Host": "a.example:8443, b"}, "https://a.example:8443"),
        ({"X-Forwarded-Host": "a.example", "X-Forwarded-Prefix": "/ai/"}, "http://a.example/ai"),
        ({"X-Forwarded-Proto": "javascript"}, "http://manta"),
        ({"X-Forwarded-Host": "evil.example/path?"}, "http://manta"),
        ({"X-Forwarded-Host": "user@evil.example"}, "http://manta"),
        ({"X-Forwarded-Prefix": "//evil.example"}, "http://manta"),
        ({"X-Forwarded-Prefix": "/a/../b"}, "http://manta"),
        ({"X-Forwarded-Prefix": '/"><script>'}, "http://manta"),
        ({"Host": "evil host"}, "http://127.0.0.1:8080"),
        ({"Host": "[::1]:80"}, "http://[::1]:80"),
    ],
)
async def test_links_lead_back_to_the_server(client: httpx.AsyncClient, headers: dict[str, str], url: str) -> None:
    answer = (await client.post("/models/apply", json={"id": "x"}, headers=headers)).json()
    assert answer["status"] == f"{url}/models/jobs/u-1"


async def test_the_setting_base_url_wins(make_app: AppFactory) -> None:
    async with http_client(make_app(base_url="https://ai.example/manta")) as client:
        answer = (await client.post("/models/apply", json={"id": "x"}, headers={"X-Forwarded-Host": "other"})).json()
    assert answer["status"] == "https://ai.example/manta/models/jobs/u-1"


async def test_the_routes_need_a_key(make_app: AppFactory) -> None:
    async with http_client(make_app(api_keys=("k",))) as client:
        assert (await client.get("/models/available")).status_code == 401
        assert (await client.get("/models/jobs/u-1", headers={"Authorization": "Bearer k"})).status_code == 200


async def test_a_gallery_that_is_switched_off_is_not_there(make_app: AppFactory, tmp_path: Path) -> None:
    async with http_client(make_app(gallery={"disable_gallery_endpoint": True})) as client:
        for method, path in (
            ("POST", "/models/apply"),
            ("POST", "/models/delete/x"),
            ("GET", "/models/available"),
            ("DELETE", "/models/galleries"),
            ("GET", "/models/jobs/u-1"),
        ):
            response = await client.request(method, path)
            assert (response.status_code, "switched off" in response.text) == (404, True), path
        assert "/models/apply" not in (await client.get("/openapi.json")).json()["paths"]
        assert (await client.get("/models")).status_code == 200
