"""Completions, edits and tokenization."""

import json
from typing import Any

import httpx
import openai
import pytest

from api.schemas.completion import Completion
from api.schemas.edit import Edit
from deployments.backends.base import Choice, Delta, DeltaGroup, TextResult, TokenizeRequest, TokenLogprob
from tests.unit.local_dispatch import USAGE, LocalDispatch


def token(text: bytes, *top: TokenLogprob) -> TokenLogprob:
    return TokenLogprob(1, text, -0.5, list(top))


async def test_whole_completion(client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/completions", json={"prompt": "Hi"})).json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "text_completion"
    assert body["choices"] == [{"text": "Hello world", "index": 0, "logprobs": None, "finish_reason": "stop"}]
    assert body["usage"]["total_tokens"] == 9
    Completion.model_validate(body)


async def test_streamed_completion(client: httpx.AsyncClient) -> None:
    options = {"prompt": "Hi", "stream": True, "stream_options": {"include_usage": True}}
    *blocks, rest = (await client.post("/v1/completions", json=options)).content.split(b"\n\n")
    assert rest == b""
    assert blocks.pop() == b"data: [DONE]"
    *chunks, usage = [json.loads(block.removeprefix(b"data: ")) for block in blocks]
    assert [(c["choices"][0]["text"], c["choices"][0]["finish_reason"]) for c in chunks] == [
        ("Hello", None),
        (" world", None),
        ("", "stop"),
    ]
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 2
    assert {chunk["object"] for chunk in [*chunks, usage]} == {"text_completion"}


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        ("", [""]),
    ],
)
async def test_all_forms_of_a_prompt(
    gateway: LocalDispatch, client: httpx.AsyncClient, prompt: Any, prompts: Any
) -> None:
    response = await client.post("/v1/completions", json={"prompt": prompt, "echo": True, "best_of": 2, "n": 2})
    assert response.status_code == 200
    assert gateway.request.prompts == prompts
    assert gateway.request.echo


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "best_of": 2}, "best_of"),
        ({"prompt": "a", "suffix": "b"}, "suffix"),
        ({"prompt": "a", "echo": True, "logprobs": 1}, "logprobs"),
        ({"prompt": "a", "logprobs": 21}, "logprobs"),
        ({"prompt": ["a"] * 20, "n": 128}, "n"),
    ],
)
async def test_mistakes_are_named(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param


async def test_legacy_logprobs(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    tokens = [token(b"a", token(b"a")), token("é".encode()[:1]), token("é".encode()[1:]), token(b"bc")]
    gateway.result = TextResult([Choice(0, "aébc", "stop", tokens)], USAGE)
    answer = await openai_client.completions.create(model="echo", prompt="x", logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert logprobs
    assert logprobs.tokens == ["a", "bytes:\\xc3", "bytes:\\xa9", "bc"]
    assert logprobs.text_offset == [0, 1, 1, 2]
    assert logprobs.token_logprobs == [-0.5] * 4
    assert logprobs.top_logprobs == [{"a": -0.5}, {}, {}, {}]
    assert gateway.request.top_logprobs == 1


async def test_text_offsets_go_on_from_chunk_to_chunk(
    gateway: LocalDispatch, openai_client: openai.AsyncOpenAI
) -> None:
    gateway.script = [
        DeltaGroup([Delta(0, "ab", logprobs=[token(b"ab")]), Delta(1, "x", logprobs=[token(b"x")])]),
        DeltaGroup([Delta(0, "c", "stop", [token(b"c")]), Delta(1, "", "stop")], USAGE),
    ]
    stream = await openai_client.completions.create(model="echo", prompt="x", n=2, logprobs=0, stream=True)
    choices = [chunk.choices[0] async for chunk in stream]
    assert [(c.index, c.logprobs and c.logprobs.text_offset) for c in choices] == [
        (0, [0]),
        (1, [0]),
        (0, [2]),
        (1, None),
    ]


@pytest.mark.parametrize("prefix", ["/v1", ""])
@pytest.mark.parametrize("model", ["echo", "org/model.gguf"])
async def test_the_path_s_model_wins(
    gateway: LocalDispatch, client: httpx.AsyncClient, prefix: str, model: str
) -> None:
    url = f"{prefix}/engines/{model}/completions?model=nope"
    body = (await client.post(url, json={"prompt": "a", "model": "nope"})).json()
    assert body["model"] == model
    assert gateway.requests[-1][:2] == (model, "complete")


async def test_edit(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/edits", json={"input": "teh", "instruction": "fix"})).json()
    assert body["id"].startswith("edit-")
    assert body["object"] == "edit"
    assert body["choices"][0]["text"] == "Hello world"
    assert (gateway.request.inputs, gateway.request.instruction) == (["teh"], "fix")
    Edit.model_validate(body)


async def test_edit_streams_and_takes_lists(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    response = await client.post("/edits", json={"input": ["a", "b"], "stream": True})
    assert response.content.endswith(b"data: [DONE]\n\n")
    assert json.loads(response.content.split(b"\n\n")[0].removeprefix(b"data: "))["object"] == "edit"
    assert gateway.requests[-1][1] == "stream_edit"
    assert gateway.request.inputs == ["a", "b"]


async def test_tokenize(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = [1, 2, 3]
    response = await client.post("/v1/tokenize", json={"content": "abc", "add_special": True})
    assert response.json() == {"tokens": [1, 2, 3]}
    assert gateway.requests == [("echo", "tokenize", TokenizeRequest("abc", add_special=True))]
