"""Tools in chat: what may be asked for, and calls on the wire, through the official client and byte for byte."""

import json
from typing import Any

import httpx
import openai
import pytest
from pydantic import BaseModel

from api.schemas.chat import ChatCompletion
from deployments.backends.base import Choice, Delta, DeltaGroup, TextResult, ToolCallDelta
from tests.unit.api.test_chat import LOGPROB, MESSAGES, events, post
from tests.unit.local_dispatch import USAGE, LocalDispatch

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
TIME: Any = {"type": "function", "function": {"name": "time", "description": "What time it is.", "strict": True}}
NAMED = {"type": "function", "function": {"name": "time"}}

CALLS = [
    ToolCallDelta(0, "call_a", "weather", '{"city": "Rome"}'),
    ToolCallDelta(1, "call_b", "time", "{}"),
]
STREAM = [
    DeltaGroup([Delta(0, reasoning="Rome, ")]),
    DeltaGroup([Delta(0, reasoning="then.")]),
    DeltaGroup([Delta(0, "I look.")]),
    DeltaGroup([Delta(0, tool_calls=[ToolCallDelta(0, "call_a", "weather")])]),
    DeltaGroup([Delta(0, tool_calls=[ToolCallDelta(0, arguments='{"city":'), ToolCallDelta(0, arguments=' "Rome"}')])]),
    DeltaGroup([Delta(0, "", "tool_calls", tool_calls=[ToolCallDelta(1, "call_b", "time", "{}")])], USAGE),
]


# ---- requests --------------------------------------------------------------------------------------------------------


async def test_tools_as_the_replica_gets_them(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    odd = {"type": "function", "function": {**TIME["function"], "defer_loading": True, "parameters": None}}
    assert (await post(client, tools=[WEATHER, odd], parallel_tool_calls=False)).status_code == 200
    request = gateway.request
    assert request.tools == [WEATHER, TIME]
    assert (request.tool_choice, request.tool_name, request.parallel_tool_calls) == ("auto", None, False)


@pytest.mark.parametrize(
    ("choice", "mode", "name", "offered"),
    [
        (None, "auto", None, ["weather", "time"]),
        ("none", "none", None, ["weather", "time"]),
        ("auto", "auto", None, ["weather", "time"]),
        ("required", "required", None, ["weather", "time"]),
        (NAMED, "required", "time", ["weather", "time"]),
        ({"type": "function", "name": "time"}, "required", "time", ["weather", "time"]),
        (json.dumps(NAMED), "required", "time", ["weather", "time"]),
        ('"required"', None, None, None),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
            "required",
            None,
            ["time"],
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]},
            "auto",
            None,
            ["weather"],
        ),
    ],
)
async def test_tool_choices(
    gateway: LocalDispatch,
    client: httpx.AsyncClient,
    choice: Any,
    mode: str | None,
    name: str | None,
    offered: list[str] | None,
) -> None:
    response = await post(client, tools=[WEATHER, TIME], tool_choice=choice)
    if mode is None:
        assert (response.status_code, response.json()["error"]["param"]) == (400, "tool_choice")
        return
    request = gateway.request
    assert (request.tool_choice, request.tool_name) == (mode, name)
    assert [tool["function"]["name"] for tool in request.tools] == offered
    assert request.parallel_tool_calls


async def test_flat_tools(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    flat = [{"type": "function", **WEATHER["function"]}, TIME["function"]]
    assert (await post(client, tools=flat)).status_code == 200
    assert gateway.request.tools == [WEATHER, TIME]


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        (None, "auto", None),
        ("auto", "auto", None),
        ("none", "none", None),
        ({"name": "time"}, "required", "time"),
        ("time", "required", "time"),
    ],
)
async def test_functions_are_tools_of_which_one_is_called(
    gateway: LocalDispatch, client: httpx.AsyncClient, choice: Any, mode: str, name: str | None
) -> None:
    functions = [WEATHER["function"], TIME["function"]]
    assert (await post(client, functions=functions, function_call=choice)).status_code == 200
    request = gateway.request
    assert request.tools == [WEATHER, TIME]
    assert (request.tool_choice, request.tool_name) == (mode, name)
    assert not request.parallel_tool_calls


async def test_either_form_of_choice_goes_with_either_form_of_tools(
    gateway: LocalDispatch, client: httpx.AsyncClient
) -> None:
    await post(client, tools=[WEATHER, TIME], function_call={"name": "time"})
    assert (gateway.request.tool_choice, gateway.request.tool_name) == ("required", "time")
    await post(client, functions=[TIME["function"]], tool_choice="required")
    assert (gateway.request.tool_choice, gateway.request.tool_name) == ("required", None)


@pytest.mark.parametrize(
    "body",
    [
        {"tools": []},
        {"tools": None, "functions": []},
        {"tools": [], "tool_choice": "none"},
        {"tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [TIME], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
    ],
)
async def test_no_tools_at_all(gateway: LocalDispatch, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    assert (await post(client, **body)).status_code == 200
    assert (gateway.request.tools, gateway.request.tool_choice) == ([], "auto")


async def test_names_that_other_servers_take(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    names = ["a", "get_weather-2", "mcp.files/read:all", "x" * 128]
    assert (await post(client, functions=[{"name": name} for name in names])).status_code == 200
    assert [tool["function"]["name"] for tool in gateway.request.tools] == names


async def test_a_conversation_with_calls(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    call = {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
        {"role": "tool", "tool_call_id": "call_a", "content": "sunny"},
        {"role": "assistant", "function_call": {"name": "time", "arguments": "{}"}},
        {"role": "function", "name": "time", "content": "noon"},
        {"role": "tool", "name": "time", "content": "LocalAI's clients send the name"},
    ]
    assert (await post(client, messages=messages)).status_code == 200
    assert gateway.request.messages == [
        messages[0],
        messages[1],
        messages[2],
        messages[3] | {"content": None},
        messages[4],
        messages[5],
    ]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [({"city": "Röm"}, '{"city":"Röm"}'), (None, "{}"), ({}, "{}"), ("{oops", "{oops"), ("", "")],
)
async def test_arguments_in_messages_are_json_text(
    gateway: LocalDispatch, client: httpx.AsyncClient, arguments: Any, text: str
) -> None:
    """A model's own broken JSON may come back: it is what was said."""
    called = {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": arguments}}]}
    assert (await post(client, messages=[called])).status_code == 200
    (call,) = gateway.request.messages[0]["tool_calls"]
    assert call == {"type": "function", "function": {"name": "weather", "arguments": text}}


def _messages(*messages: Any) -> dict[str, Any]:
    return {"messages": messages}


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tools": "weather"}, "tools", "expected an array"),
        ({"tools": [5]}, "tools[0]", "expected an object"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "Missing required parameter"),
        ({"tools": [{"function": {}}]}, "tools[0].function.name", "Missing required parameter"),
        ({"tools": [{"function": {"name": "get weather"}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [{"function": {"name": ""}}]}, "tools[0].function.name", "pattern"),
        ({"tools": [{"name": "x" * 129}]}, "tools[0].function.name", "pattern"),
        ({"tools": [{"type": "custom", "name": "f"}]}, "tools[0].type", "Supported values are: 'function'"),
        ({"tools": [{"name": "f", "parameters": []}]}, "tools[0].function.parameters", "an object, but got an array"),
        ({"tools": [{"name": "f", "strict": "yes"}]}, "tools[0].function.strict", "a boolean"),
        ({"tools": [TIME, WEATHER, TIME]}, "tools[2].function.name", "two tools named 'time'"),
        ({"tools": [{"name": f"f{i}"} for i in range(129)]}, "tools", "at most 128"),
        ({"tools": [TIME], "tool_choice": "sometimes"}, "tool_choice", "'sometimes'. Supported values are: 'none'"),
        ({"tools": [TIME], "tool_choice": 5}, "tool_choice", "Supported values are"),
        ({"tools": [TIME], "tool_choice": {"type": "function"}}, "tool_choice", "Supported values are"),
        ({"tools": [TIME], "tool_choice": "{oops"}, "tool_choice", "Supported values are"),
        ({"tools": [WEATHER], "tool_choice": NAMED}, "tool_choice", "no tool named 'time'"),
        ({"tools": [TIME], "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [5]}}, "tool_choice", "5"),
        (
            {"tools": [TIME], "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}},
            "tool_choice",
            "no tool to call",
        ),
        ({"tool_choice": "required"}, "tool_choice", "no tool to call"),
        ({"tool_choice": NAMED}, "tool_choice", "no tool named 'time'"),
        ({"tools": [TIME], "functions": [{"name": "f"}]}, "functions", "not both"),
        ({"functions": [{"name": "f"}, {"name": "f"}]}, "functions[1].name", "two tools named 'f'"),
        ({"functions": [{"name": "f"}], "function_call": "g"}, "function_call", "no tool named 'g'"),
        ({"function_call": {"name": "f"}}, "function_call", "no tool named 'f'"),
        ({"functions": [{"name": "f"}], "function_call": 5}, "function_call", "Supported values are"),
        ({"functions": [{"name": "a b"}]}, "functions[0].name", "pattern"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "a boolean"),
        ({"reasoning_effort": 3}, "reasoning_effort", "a string"),
        (_messages({"role": "tool", "content": "sunny"}), "messages[0].tool_call_id", "Missing required parameter"),
        (
            _messages({"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": 5}}]}),
            "messages[0].tool_calls[0].function.arguments",
            "a string, but got an integer",
        ),
        (
            _messages({"role": "assistant", "tool_calls": [{"id": "a", "function": {"arguments": "{}"}}]}),
            "messages[0].tool_calls[0].function.name",
            "Missing required parameter",
        ),
        (
            _messages({"role": "assistant", "function_call": {"name": "f"}}),
            "messages[0].function_call.arguments",
            "Missing required parameter",
        ),
    ],
)
async def test_mistakes_are_named(
    client: httpx.AsyncClient, gateway: LocalDispatch, body: dict[str, Any], param: str, words: str
) -> None:
    response = await post(client, **body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert words in error["message"]
    assert gateway.requests == []


async def test_a_format_and_tools_both_reach_the_model(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    for choice in ("none", "auto", "required"):
        response = await post(client, tools=[TIME], tool_choice=choice, response_format={"type": "json_object"})
        assert response.status_code == 200
        assert (gateway.request.json_schema, gateway.request.tool_choice) == ({"type": "object"}, choice)


# ---- answers ---------------------------------------------------------------------------------------------------------


async def test_whole_answer_with_calls(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = TextResult([Choice(0, "", "tool_calls", tool_calls=CALLS)], USAGE)
    body = (await post(client, tools=[WEATHER, TIME])).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
            {"id": "call_b", "type": "function", "function": {"name": "time", "arguments": "{}"}},
        ],
    }
    ChatCompletion.model_validate(body)


async def test_content_beside_calls_is_kept(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = TextResult([Choice(0, "I look.", "tool_calls", tool_calls=CALLS[:1], reasoning="Rome.")], USAGE)
    message = (await post(client, tools=[WEATHER])).json()["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("I look.", "Rome.")


async def test_functions_are_answered_by_one_function_call(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = TextResult([Choice(0, "", "tool_calls", tool_calls=CALLS)], USAGE)
    body = (await post(client, functions=[WEATHER["function"]])).json()
    (choice,) = body["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Rome"}'}
    assert choice["message"]["content"] is None
    assert "tool_calls" not in choice["message"]
    ChatCompletion.model_validate(body)


def _call(index: int, **fields: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **fields}]}


async def test_stream_with_calls(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [*STREAM]
    chunks = events((await post(client, tools=[WEATHER, TIME], stream=True)).content)[:-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"reasoning_content": "Rome, "},
        {"reasoning_content": "then."},
        {"content": "I look."},
        _call(0, id="call_a", type="function", function={"name": "weather", "arguments": ""}),
        _call(0, function={"arguments": '{"city":'}),
        _call(0, function={"arguments": ' "Rome"}'}),
        _call(1, id="call_b", type="function", function={"name": "time", "arguments": ""}),
        _call(1, function={"arguments": "{}"}),
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None] * 9 + ["tool_calls"]


async def test_a_stream_that_only_calls_has_no_content(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [DeltaGroup([Delta(0, "", "tool_calls", logprobs=[LOGPROB], tool_calls=CALLS[:1])], USAGE)]
    chunks = events((await post(client, tools=[WEATHER], stream=True)).content)[:-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": None}
    assert not any("content" in choice["delta"] for choice in choices[1:])
    assert [choice["logprobs"] is not None for choice in choices] == [False, True, False, False]


async def test_stream_with_functions(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [*STREAM]
    chunks = events((await post(client, functions=[WEATHER["function"]], stream=True)).content)[:-1]
    choices = [chunk["choices"][0] for chunk in chunks]
    assert [choice["delta"] for choice in choices if "function_call" in choice["delta"]] == [
        {"function_call": {"name": "weather", "arguments": ""}},
        {"function_call": {"arguments": '{"city":'}},
        {"function_call": {"arguments": ' "Rome"}'}},
    ]
    assert choices[-1]["finish_reason"] == "function_call"


async def test_choices_call_each_for_itself(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [
        DeltaGroup([Delta(1, tool_calls=CALLS[:1]), Delta(0, "no call")]),
        DeltaGroup([Delta(0, "", "stop"), Delta(1, "", "tool_calls")], USAGE),
    ]
    chunks = events((await post(client, tools=[WEATHER], n=2, stream=True)).content)[:-1]
    by_choice = {index: [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index] for index in (0, 1)}
    assert [choice["finish_reason"] for choice in by_choice[1]] == [None, None, None, "tool_calls"]
    assert not any("tool_calls" in choice["delta"] for choice in by_choice[0])


# ---- the official client ---------------------------------------------------------------------------------------------


async def test_openai_client(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.result = TextResult([Choice(0, "", "tool_calls", tool_calls=CALLS, reasoning="Rome.")], USAGE)
    answer = await openai_client.chat.completions.create(model="echo", messages=MESSAGES, tools=[WEATHER, TIME])
    message = answer.choices[0].message
    assert message.content is None and message.tool_calls
    assert [(call.id, call.function.name) for call in message.tool_calls if call.type == "function"] == [
        ("call_a", "weather"),
        ("call_b", "time"),
    ]
    assert message.model_extra == {"reasoning_content": "Rome."}


async def test_an_answer_can_be_sent_back(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.result = TextResult([Choice(0, "", "tool_calls", tool_calls=CALLS[:1], reasoning="Rome.")], USAGE)
    answer = await openai_client.chat.completions.create(model="echo", messages=MESSAGES, tools=[WEATHER])
    message: Any = answer.choices[0].message
    result: Any = {"role": "tool", "tool_call_id": "call_a", "content": [{"type": "text", "text": "sunny"}]}
    await openai_client.chat.completions.create(
        model="echo", messages=[*MESSAGES, message, result], tools=[WEATHER], tool_choice="none"
    )
    sent = gateway.request.messages[1]
    assert sent["tool_calls"] == [message.tool_calls[0].model_dump()]
    assert (sent["content"], sent["reasoning_content"]) == (None, "Rome.")


async def test_openai_client_streams(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.script = [*STREAM]
    stream = await openai_client.chat.completions.create(
        model="echo", messages=MESSAGES, tools=[WEATHER, TIME], stream=True
    )
    names, arguments, reasoning = {}, {0: "", 1: ""}, ""
    async for chunk in stream:
        delta = chunk.choices[0].delta
        reasoning += getattr(delta, "reasoning_content", "")
        for call in delta.tool_calls or ():
            assert call.function
            if call.id:
                names[call.id] = call.function.name
            arguments[call.index] += call.function.arguments or ""
    assert reasoning == "Rome, then."
    assert names == {"call_a": "weather", "call_b": "time"}
    assert arguments == {0: '{"city": "Rome"}', 1: "{}"}


class Weather(BaseModel):
    """The weather of a city."""

    city: str


PARSED_TOOL = openai.pydantic_function_tool(Weather, name="weather")


async def test_openai_client_s_stream_helper(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.script = [*STREAM]
    fragments = ""
    async with openai_client.chat.completions.stream(
        model="echo", messages=MESSAGES, tools=[PARSED_TOOL, TIME], stream_options={"include_usage": True}
    ) as stream:
        async for event in stream:
            if event.type == "tool_calls.function.arguments.delta" and event.name == "weather":
                fragments += event.arguments_delta
        answer = await stream.get_final_completion()
    (choice,) = answer.choices
    assert fragments == '{"city": "Rome"}'
    assert choice.finish_reason == "tool_calls" and choice.message.tool_calls
    assert choice.message.content == "I look."
    assert choice.message.tool_calls[0].function.parsed_arguments == Weather(city="Rome")
    assert answer.usage and answer.usage.total_tokens == 9
    assert gateway.request.tools[0]["function"]["strict"] is True


async def test_openai_client_parses_calls(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.result = TextResult([Choice(0, "", "tool_calls", tool_calls=CALLS[:1])], USAGE)
    answer = await openai_client.chat.completions.parse(model="echo", messages=MESSAGES, tools=[PARSED_TOOL])
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.parsed_arguments == Weather(city="Rome")
