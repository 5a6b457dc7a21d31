"""The list of models, one model, and reload."""

import httpx
import openai
import pytest

from api.name_filter import name_filter
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.local_gallery import LocalGallery


async def test_list_is_sorted_and_leaves_out_what_is_disabled(openai_client: openai.AsyncOpenAI) -> None:
    models = [model async for model in openai_client.models.list()]
    assert [model.id for model in models] == ["alias", "echo", "embed", "org/model.gguf"]
    assert {(model.object, model.owned_by) for model in models} == {("model", "manta")}


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
async def test_filter(client: httpx.AsyncClient, path: str) -> None:
    body = (await client.get(path, params={"filter": "^e", "excludeConfigured": "false"})).json()
    assert body["object"] == "list"
    assert [model["id"] for model in body["data"]] == ["echo", "embed"]


async def test_bad_filter(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/models", params={"filter": "("})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "filter"


def test_no_pattern_is_slow() -> None:
    assert not name_filter("(a+)+$")("a" * 60 + "!")  # 2^60 steps in a backtracking engine: the test would not end


@pytest.mark.parametrize("model", ["echo", "org/model.gguf"])
async def test_one_model(openai_client: openai.AsyncOpenAI, model: str) -> None:
    assert (await openai_client.models.retrieve(model)).id == model


async def test_no_such_model(client: httpx.AsyncClient) -> None:
    for name, status in (("nope", 404), ("off", 403)):
        assert (await client.get(f"/models/{name}")).status_code == status


async def test_reload(gateway: LocalDispatch, gallery: LocalGallery, client: httpx.AsyncClient) -> None:
    gateway.errors = {"models/x.yaml": "no such field"}
    body = (await client.post("/models/reload")).json()
    assert body == {"models": 5, "errors": {"models/x.yaml": "no such field"}}
    assert gallery.reloads == 1
