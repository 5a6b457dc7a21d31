"""Embeddings and rerank over HTTP through HAProxy, ingress and handle, on echo encoders."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest

from tests.serving import KEY, Server, eventually


@pytest.fixture(scope="module", autouse=True)
def _models(server: Server) -> Iterator[None]:
    """A token takes 0.1 ms in `encoder-slow`: 64 inputs of 8 make a batch of 51 ms."""
    models = {
        "encoder": {"known_usecases": "[embeddings, rerank]", "options": '["width:16", "fail_on:poison"]'},
        "encoder-slow": {
            "known_usecases": "[embeddings]",
            "options": '["width:16", "batch_tokens:512", "token_delay:0.0001"]',
        },
        "reranker": {"known_usecases": "[rerank]"},
    }
    for name, fields in models.items():
        server.write_model(name, **fields)
    yield
    for name in models:
        server.remove_model(name)


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def letter(text: str) -> list[float]:
    """The row of a text that repeats one character."""
    return [float(ord(text[0]) % 16 == place) for place in range(16)]


def test_vectors_are_in_order_and_counted(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="encoder", input=["aa", "b", "cccc"])
    assert [item.embedding for item in answer.data] == [letter(text) for text in "abc"]
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 7


def test_token_ids(client: openai.OpenAI) -> None:
    assert client.embeddings.create(model="encoder", input=list(b"aaa")).data[0].embedding == letter("a")


async def test_a_big_request_does_not_hold_small_ones_up(async_client: openai.AsyncOpenAI) -> None:
    """5,000 inputs are 4 s of work, of which each small request waits for some batches of 51 ms."""
    texts = [chr(97 + i % 26) * 8 for i in range(5_000)]
    big = asyncio.create_task(async_client.embeddings.create(model="encoder-slow", input=texts))
    for text in "xyz" * 2:
        answer = await async_client.embeddings.create(model="encoder-slow", input=text)
        assert answer.data[0].embedding == letter(text)
    assert not big.done()
    assert [item.embedding for item in (await big).data] == [letter(text) for text in texts]


async def test_a_request_that_fails_fails_alone(async_client: openai.AsyncOpenAI) -> None:
    texts = [f"text {i}" if i % 8 else "poison" for i in range(32)]
    answers = await asyncio.gather(
        *(async_client.embeddings.create(model="encoder", input=text) for text in texts), return_exceptions=True
    )
    assert [isinstance(answer, openai.InternalServerError) for answer in answers] == [
        text == "poison" for text in texts
    ]


def test_a_client_that_leaves_a_big_request_leaves_nothing_behind(server: Server) -> None:
    body = {"model": "encoder-slow", "input": ["a" * 8] * 100_000}
    with server.client() as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/embeddings", json=body, timeout=httpx.Timeout(120, read=2))
    eventually(lambda: server.in_flight("encoder-slow") == 0, seconds=20)


@pytest.mark.parametrize("model", ["encoder", "reranker"])
def test_rerank(server: Server, model: str) -> None:
    body = {"model": model, "query": "aab", "documents": ["zz", "aab", "aa z"], "top_n": 2}
    with server.client() as client:
        answer = client.post("/v1/rerank", json=body).json()
    assert [result["index"] for result in answer["results"]] == [1, 2]
    assert answer["results"][0]["relevance_score"] == pytest.approx(1)


def test_a_chat_model_does_not_embed(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="echo"):
        client.embeddings.create(model="echo", input="a")
