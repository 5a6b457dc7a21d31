"""Reranking: Jina's and Cohere's forms of the request, and their answers."""

from typing import Any

import httpx
import pytest

from api.schemas.rerank import CohereRerankResponse, RerankResponse
from deployments.backends.base import RerankRequest, Scores
from deployments.errors import InvalidRequest
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_dispatch import LocalDispatch

DOCUMENTS = ["one", {"text": "two", "id": 2}, "three"]
BODY = {"model": "embed", "query": "q", "documents": DOCUMENTS}


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.result = Scores([0.25, 0.5, -1.0], prompt_tokens=12)
    return gateway


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_jina_s_answer(gateway: LocalDispatch, client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=BODY)
    assert response.status_code == 200
    RerankResponse.model_validate(response.json())
    assert response.json() == {
        "model": "embed",
        "usage": {"prompt_tokens": 12, "total_tokens": 12},
        "results": [
            {"index": 1, "document": {"text": "two", "id": 2}, "relevance_score": 0.5},
            {"index": 0, "document": {"text": "one"}, "relevance_score": 0.25},
            {"index": 2, "document": {"text": "three"}, "relevance_score": -1.0},
        ],
    }
    request = RerankRequest(query="q", documents=["one", "two", "three"], tenant="anonymous")
    assert gateway.requests == [("embed", "rerank", request)]


async def test_cohere_s_answer(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v2/rerank", json={**BODY, "top_n": 1})).json()
    CohereRerankResponse.model_validate(body)
    assert body.pop("id")
    assert body == {
        "results": [{"index": 1, "relevance_score": 0.5}],
        "meta": {"api_version": {"version": "2"}, "tokens": {"input_tokens": 12, "output_tokens": 0}},
    }


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
@pytest.mark.parametrize("wanted", [True, False])
async def test_documents_come_back_as_asked(client: httpx.AsyncClient, path: str, wanted: bool) -> None:
    results = (await client.post(path, json={**BODY, "return_documents": wanted})).json()["results"]
    assert [result.get("document") for result in results][1:] == (
        [{"text": "one"}, {"text": "three"}] if wanted else [None, None]
    )


@pytest.mark.parametrize(
    ("top_n", "indexes"), [(None, [1, 0, 2]), (1, [1]), (2.0, [1, 0]), (3, [1, 0, 2]), (9, [1, 0, 2])]
)
async def test_top_n(client: httpx.AsyncClient, top_n: Any, indexes: list[int]) -> None:
    results = (await client.post("/v1/rerank", json={**BODY, "top_n": top_n})).json()["results"]
    assert [result["index"] for result in results] == indexes


async def test_equals_keep_their_order(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = Scores([0.5, 0.9, 0.5, 0.9, 0.5])
    results = (await client.post("/v1/rerank", json={"query": "q", "documents": ["d"] * 5})).json()["results"]
    assert [result["index"] for result in results] == [1, 3, 0, 2, 4]


async def test_fields_of_a_document(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = Scores([0.25, 0.5])
    documents = [{"title": "T", "body": "B", "text": "x"}, "plain"]
    body = {"query": {"text": "q"}, "documents": documents, "rank_fields": ["title", "body"]}
    results = (await client.post("/v1/rerank", json=body)).json()
    assert gateway.request.documents == ["T\nB", "plain"]
    assert gateway.request.query == "q"
    assert results["results"][1]["document"] == documents[0]


@pytest.mark.parametrize(
    ("change", "param", "words"),
    [
        ({"query": None}, "query", "a string"),
        ({"query": ""}, "query", "non-empty"),
        ({"query": {}}, "query", "a string"),
        ({"documents": None}, "documents", "an array"),
        ({"documents": "a"}, "documents", "an array"),
        ({"documents": []}, "documents", "the array is empty"),
        ({"documents": ["a", 5]}, "documents", r"documents\[1\] is an integer"),
        ({"documents": ["a", ["b"]]}, "documents", r"documents\[1\] is an array"),
        ({"documents": ["a", {"title": "b"}]}, "documents[1].text", "expected a string, but got nothing"),
        ({"documents": [{"text": 1}]}, "documents[0].text", "expected a string, but got an integer"),
        ({"rank_fields": []}, "rank_fields", "at least 1"),
        ({"top_n": 0}, "top_n", "at least 1"),
        ({"top_n": "2"}, "top_n", "an integer"),
        ({"return_documents": "yes"}, "return_documents", "a boolean"),
        ({"truncate": "START"}, "truncate", "END"),
        ({"model": "echo"}, "model", "not for rerank"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
async def test_mistakes_are_named(
    client: httpx.AsyncClient, path: str, change: dict[str, Any], param: str, words: str
) -> None:
    response = await client.post(path, json=BODY | change)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    with pytest.raises(InvalidRequest, match=words):
        raise InvalidRequest(error["message"])


async def test_truncation(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = Scores([0.1, 0.2, 0.3], truncated=2)
    for path in ("/v1/rerank", "/v2/rerank"):
        response = await client.post(path, json={**BODY, "truncate": "END"})
        assert response.headers["X-Truncated-Inputs"] == "2"
        assert gateway.request.truncate is True


async def test_a_key_is_needed(make_app: AppFactory) -> None:
    async with http_client(make_app(api_keys="sk-1")) as client:
        assert (await client.post("/v2/rerank", json=BODY)).status_code == 401


async def test_how_a_model_scores_is_listed(client: httpx.AsyncClient) -> None:
    models = {model["id"]: model for model in (await client.get("/v1/models")).json()["data"]}
    assert (models["embed"]["scoring"], models["echo"]["scoring"]) == ("cosine", None)
