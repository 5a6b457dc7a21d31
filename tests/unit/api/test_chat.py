"""Chat completions, through the official client and byte for byte."""

import json
from typing import Any

import httpx
import jsonschema
import openai
import pytest

from api.schemas.chat import ChatCompletion
from deployments.backends.base import ChatRequest, Choice, Delta, DeltaGroup, TextResult, TokenLogprob
from deployments.errors import EngineError, ModelLoadFailed
from tests.unit.local_dispatch import USAGE, LocalDispatch

MESSAGES: Any = [{"role": "user", "content": "hi"}]
LOGPROB = TokenLogprob(5, b"\xe2\x82", -0.5, [TokenLogprob(5, b"\xe2\x82", -0.5), TokenLogprob(6, b"Hi", -1.5)])


def events(body: bytes) -> list[Any]:
    """The events of a stream; `[DONE]` as it is, comments dropped."""
    assert body.endswith(b"\n\n")
    blocks = [block for block in body.split(b"\n\n")[:-1] if not block.startswith(b":")]
    assert all(block.startswith(b"data: ") for block in blocks)
    return ["[DONE]" if block == b"data: [DONE]" else json.loads(block[6:]) for block in blocks]


async def post(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json={"messages": MESSAGES, **body})


async def test_whole_answer_has_openai_s_shape(client: httpx.AsyncClient) -> None:
    response = await post(client, model="echo")
    body = response.json()
    assert response.status_code == 200
    assert body.pop("id").startswith("chatcmpl-")
    assert isinstance(body.pop("created"), int)
    assert body == {
        "object": "chat.completion",
        "model": "echo",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3},
        },
    }
    ChatCompletion.model_validate(response.json())


async def test_stream_has_openai_s_order(client: httpx.AsyncClient) -> None:
    response = await post(client, model="echo", stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    *chunks, done = events(response.content)
    assert done == "[DONE]"
    assert [chunk["choices"] for chunk in chunks] == [
        [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        for delta, finish in (
            ({"role": "assistant", "content": ""}, None),
            ({"content": "Hello"}, None),
            ({"content": " world"}, None),
            ({}, "stop"),
        )
    ]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks}) == 1
    assert not any("usage" in chunk for chunk in chunks)


async def test_stream_ends_with_usage_when_asked(client: httpx.AsyncClient) -> None:
    response = await post(client, stream=True, stream_options={"include_usage": True})
    *chunks, last, done = events(response.content)
    assert done == "[DONE]"
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 9
    assert last["object"] == "chat.completion.chunk"
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_choices_keep_their_index(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [
        DeltaGroup([Delta(1, "b"), Delta(0, "a")]),
        DeltaGroup([Delta(0, "A", "stop"), Delta(1, "", "length")], USAGE),
    ]
    chunks = events((await post(client, n=2, stream=True)).content)[:-1]
    for index, text, finish in ((0, "aA", "stop"), (1, "b", "length")):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in mine) == text
        assert [choice["finish_reason"] for choice in mine] == [None] * (len(mine) - 1) + [finish]
        assert mine[-1]["delta"] == {}
    assert gateway.request.n == 2


async def test_logprobs(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = TextResult([Choice(0, "x", "stop", [LOGPROB])], USAGE)
    body = (await post(client, logprobs=True, top_logprobs=2)).json()
    partial = {"token": "\N{REPLACEMENT CHARACTER}", "logprob": -0.5, "bytes": [0xE2, 0x82]}
    hi = {"token": "Hi", "logprob": -1.5, "bytes": [72, 105]}
    assert body["choices"][0]["logprobs"] == {"content": [partial | {"top_logprobs": [partial, hi]}]}
    assert gateway.request.top_logprobs == 2
    ChatCompletion.model_validate(body)


async def test_logprobs_in_a_stream_come_with_their_text(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [DeltaGroup([Delta(0, "", logprobs=[LOGPROB])]), DeltaGroup([Delta(0, "", "stop")], USAGE)]
    chunks = events((await post(client, logprobs=True, stream=True)).content)[:-1]
    assert [len((chunk["choices"][0]["logprobs"] or {"content": []})["content"]) for chunk in chunks] == [0, 1, 0]
    assert gateway.request.top_logprobs == 0


async def test_ids_are_unique(client: httpx.AsyncClient) -> None:
    ids = {(await post(client)).json()["id"] for _ in range(5)}
    assert len(ids) == 5


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/chat/completions"])
async def test_with_and_without_v1(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.post(path, json={"messages": MESSAGES})).json()["model"] == "echo"


async def test_an_alias_answers_by_the_name_asked_for(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    assert (await post(client, model="alias")).json()["model"] == "alias"
    assert gateway.requests[-1][:2] == ("echo", "chat")


async def test_the_query_s_model_wins(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await client.post("/v1/chat/completions?model=org/model.gguf", json={"messages": MESSAGES, "model": "echo"})
    assert gateway.requests[-1][0] == "org/model.gguf"


# ---- the official client ---------------------------------------------------------------------------------------------


async def test_openai_client(openai_client: openai.AsyncOpenAI) -> None:
    answer = await openai_client.chat.completions.create(model="echo", messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello world"
    assert answer.usage and answer.usage.prompt_tokens_details
    assert answer.usage.prompt_tokens_details.cached_tokens == 3


async def test_openai_client_streams(openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.chat.completions.create(
        model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello world"
    assert chunks[-1].usage and chunks[-1].usage.total_tokens == 9


async def test_openai_client_with_raw_response(openai_client: openai.AsyncOpenAI) -> None:
    raw = await openai_client.chat.completions.with_raw_response.create(
        model="echo", messages=MESSAGES, extra_headers={"X-Request-ID": "mine", "X-Correlation-ID": "theirs"}
    )
    assert raw.headers["x-request-id"] == "mine"
    assert raw.headers["x-correlation-id"] == "theirs"


async def test_openai_client_s_exceptions(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await openai_client.chat.completions.create(model="nope", messages=MESSAGES)
    assert missing.value.code == "model_not_found"
    assert missing.value.param == "model"
    gateway.script = [EngineError("the engine's own words")]
    with pytest.raises(openai.InternalServerError, match="the engine's own words"):
        await openai_client.chat.completions.create(model="echo", messages=MESSAGES, stream=True)


async def test_openai_client_sees_an_error_in_a_stream(
    gateway: LocalDispatch, openai_client: openai.AsyncOpenAI
) -> None:
    gateway.script = [DeltaGroup([Delta(0, "Hel")]), EngineError("the engine's own words")]
    stream = await openai_client.chat.completions.create(model="echo", messages=MESSAGES, stream=True)
    with pytest.raises(openai.APIError, match="the engine's own words"):
        async for _ in stream:
            pass


async def test_an_error_before_the_first_token_keeps_its_status(
    gateway: LocalDispatch, client: httpx.AsyncClient
) -> None:
    gateway.script = [ModelLoadFailed("no such file").after(9.2)]
    response = await post(client, stream=True)
    assert response.status_code == 503
    assert response.headers["retry-after"] == "10"
    assert response.json()["error"]["code"] == "model_load_failed"


# ---- the request -----------------------------------------------------------------------------------------------------


async def test_only_what_the_client_set_reaches_the_sampler(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await post(client)
    assert gateway.request.sampling == {}
    await post(client, temperature=0, top_k=3, seed=-1, repeat_penalty=0, logit_bias={"7": -100}, top_p=None)
    assert gateway.request.sampling == {
        "temperature": 0,
        "top_k": 3,
        "seed": None,
        "repeat_penalty": 1.0,
        "logit_bias": {7: -100},
    }


async def test_the_request_as_the_replica_gets_it(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    response = await post(
        client,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "assistant", "tool_calls": []},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        ],
        max_tokens=5,
        max_completion_tokens=9.0,
        stop="END",
        response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}},
        chat_template_kwargs={"enable_thinking": False},
        reasoning_effort="low",
    )
    assert gateway.request == ChatRequest(
        tenant="anonymous",
        request_id=response.headers["x-request-id"],
        messages=[
            {"role": "system", "content": "be brief"},
            {"role": "assistant", "content": None, "tool_calls": []},
            {"role": "user", "content": [{"type": "text", "text": "hi"}], "name": "ann"},
        ],
        max_tokens=9,
        stop=["END"],
        json_schema={"type": "array"},
        template_kwargs={"enable_thinking": False, "reasoning_effort": "low"},
    )


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ("text", None),
        ("json_object", {"type": "object"}),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_object", "schema": {"type": "null"}}, {"type": "null"}),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, {"type": "object"}),
    ],
)
async def test_response_formats(gateway: LocalDispatch, client: httpx.AsyncClient, wanted: Any, schema: Any) -> None:
    assert (await post(client, response_format=wanted)).status_code == 200
    assert gateway.request.json_schema == schema


async def test_grammar_json_functions_have_every_property(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    arguments = {"type": "object", "properties": {"city": {"type": "string"}, "none": {"type": "object"}}}
    call = {"type": "object", "properties": {"function": {"const": "weather"}, "arguments": arguments}}
    assert (await post(client, grammar_json_functions={"oneOf": [call]})).status_code == 200
    schema = gateway.request.json_schema
    jsonschema.validate({"function": "weather", "arguments": {"city": "Rome", "none": {}}}, schema)
    for wrong in ({"function": "weather", "arguments": {}}, {"function": "weather"}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


@pytest.mark.parametrize(
    ("body", "kwargs"),
    [
        ({}, {}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none"}),
        ({"metadata": {"enable_thinking": "false", "ticket": "7"}}, {"enable_thinking": False}),
        ({"metadata": {"enable_thinking": "true"}}, {"enable_thinking": True}),
        ({"metadata": {"reasoning_effort": "low"}, "reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"reasoning_effort": "low"}},
            {"reasoning_effort": "low"},
        ),
    ],
)
async def test_what_the_template_is_told(
    gateway: LocalDispatch, client: httpx.AsyncClient, body: dict[str, Any], kwargs: dict[str, Any]
) -> None:
    assert (await post(client, **body)).status_code == 200
    assert gateway.request.template_kwargs == kwargs


async def test_reasoning_of_earlier_answers_reaches_the_template(
    gateway: LocalDispatch, client: httpx.AsyncClient
) -> None:
    said = [{"role": "assistant", "content": "4", name: "2+2"} for name in ("reasoning", "reasoning_content")]
    await post(client, messages=[*said, *MESSAGES])
    assert [message.get("reasoning_content") for message in gateway.request.messages] == ["2+2", "2+2", None]


async def test_reasoning_comes_before_content(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = TextResult([Choice(0, "4", "stop", reasoning="2+2")], USAGE)
    body = (await post(client)).json()
    assert body["choices"][0]["message"] == {
        "role": "assistant",
        "content": "4",
        "refusal": None,
        "reasoning_content": "2+2",
    }
    ChatCompletion.model_validate(body)
    gateway.script = [
        DeltaGroup([Delta(0, reasoning="2+")]),
        DeltaGroup([Delta(0, "4", "stop", logprobs=[LOGPROB], reasoning="2")], USAGE),
    ]
    chunks = events((await post(client, stream=True)).content)[:-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "2+"},
        {"reasoning_content": "2"},
        {"content": "4"},
        {},
    ]
    assert [choice["logprobs"] is not None for choice in choices] == [False, False, True, False, False]


async def test_zero_max_tokens_is_no_limit(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await post(client, max_tokens=0)
    assert gateway.request.max_tokens is None


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "hi"}, "messages", "expected an array, but got a string"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role", "Missing required parameter"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, "messages[0].role", "Supported values are"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "but got an integer"),
        ({"temperature": "hot"}, "temperature", "expected a number, but got a string"),
        ({"temperature": "0.5"}, "temperature", "expected a number, but got a string"),
        ({"temperature": -1}, "temperature", "at least 0, but got -1"),
        ({"temperature": True}, "temperature", "expected a number, but got a boolean"),
        ({"top_p": 1.5}, "top_p", "at most 1, but got 1.5"),
        ({"n": 0}, "n", "at least 1"),
        ({"n": 129}, "n", "at most 128"),
        ({"n": 1.5}, "n", "expected an integer, but got a decimal number"),
        ({"max_tokens": -1}, "max_tokens", "at least 0"),
        ({"max_tokens": 10**40}, "max_tokens", "at most"),
        ({"stop": 5}, "stop", "expected an array, but got an integer"),
        ({"stop": [5]}, "stop[0]", "expected a string"),
        ({"frequency_penalty": 3}, "frequency_penalty", "at most 2"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "not a token id"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1", "at most 100"),
        ({"seed": "x"}, "seed", "expected an integer"),
        ({"top_logprobs": 3}, "top_logprobs", "needs 'logprobs'"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "at most 20"),
        ({"stream": "yes"}, "stream", "expected a boolean"),
        ({"model": 5}, "model", "expected a string"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "Supported values are"),
        ({"response_format": "b64_json"}, "response_format.type", "Supported values are"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
        ({"response_format": "json_object", "grammar": "root ::= [a]"}, "grammar", "can't both"),
        ({"grammar_json_functions": {"oneOf": []}, "grammar": "root ::= [a]"}, "grammar", "can't both"),
        ({"modalities": ["text", "audio"]}, "modalities", "text only"),
    ],
)
async def test_mistakes_are_named(
    client: httpx.AsyncClient, gateway: LocalDispatch, body: dict[str, Any], param: str, message: str
) -> None:
    response = await client.post("/v1/chat/completions", content=json.dumps({"messages": MESSAGES, **body}))
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert message in error["message"]
    assert gateway.requests == []


async def test_models_that_can_not(client: httpx.AsyncClient) -> None:
    for model, status, code in (("off", 403, "model_disabled"), ("embed", 400, "invalid_request")):
        response = await post(client, model=model)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
