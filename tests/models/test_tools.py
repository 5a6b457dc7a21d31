"""Tool calls by SmolLM2, whose template knows no tools, behind the running server."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import openai
import pytest

from tests.serving import KEY, Server, eventually

MODEL = "smollm2-tools"
CONFIG = """
name: smollm2-tools
backend: llama-cpp
context_size: 2048
parameters: {{model: {file}, temperature: 0, max_tokens: 200}}
"""
SETS = 30
ALONE = 4
AT_ONCE = 8
KINDS = ("city", "day", "amount", "colour", "size", "level")


@pytest.fixture(scope="module")
def model(server: Server, smollm2_path: Path) -> str:
    (server.models_path / "tools.gguf").symlink_to(smollm2_path)
    (server.models_path / f"{MODEL}.yaml").write_text(CONFIG.format(file="tools.gguf"))
    with server.client() as client:
        client.post("/models/reload")
        eventually(lambda: MODEL in client.get("/v1/models").text)
    return MODEL


@pytest.fixture
async def client(server: Server, model: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def parameter(chance: random.Random) -> dict[str, Any]:
    return chance.choice(
        [
            {"type": "string", "maxLength": 8},
            {"type": "string", "pattern": "^[A-Z]{2}[0-9]$"},
            {"type": "integer", "minimum": 1, "maximum": 31},
            {"type": "boolean"},
            {"enum": ["low", "high", None, 3]},
            {"$ref": "#/$defs/unit"},
            {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 2},
        ]
    )


def tool(name: str, chance: random.Random) -> dict[str, Any]:
    names = chance.sample(KINDS, chance.randint(0, 2))
    schema = {
        "type": "object",
        "properties": {name: parameter(chance) for name in names},
        "required": names[:1],
        "additionalProperties": False,
        "$defs": {"unit": {"enum": [f"{name}-a", f"{name}-b"]}},  # the same name, another meaning in each tool
    }
    return {"type": "function", "function": {"name": name, "description": f"Work on {name}.", "parameters": schema}}


def tool_set(seed: int) -> list[dict[str, Any]]:
    chance = random.Random(seed)
    return [tool(f"{verb}_{seed}", chance) for verb in chance.sample(("get", "set", "find"), chance.randint(1, 3))]


def question(tools: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
    content = f"Please do {tools[0]['function']['name']}."
    return {"model": MODEL, "messages": [{"role": "user", "content": content}], "tools": tools, **fields}


def check(tools: list[dict[str, Any]], name: str, arguments: str) -> None:
    """The call is one of these tools', with arguments that its schema accepts."""
    schemas = {entry["function"]["name"]: entry["function"]["parameters"] for entry in tools}
    jsonschema.validate(json.loads(arguments), schemas[name])


async def unary(client: openai.AsyncOpenAI, request: dict[str, Any]) -> list[tuple[str, str]]:
    answer = await client.chat.completions.create(**request)
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls" and not choice.message.content
    assert len({call.id for call in choice.message.tool_calls}) == len(choice.message.tool_calls)
    return [(call.function.name, call.function.arguments) for call in choice.message.tool_calls]


async def streamed(client: openai.AsyncOpenAI, request: dict[str, Any]) -> list[tuple[str, str]]:
    calls: list[tuple[str, str]] = []
    finish = None
    async for chunk in await client.chat.completions.create(**request, stream=True):
        [choice] = chunk.choices
        finish = choice.finish_reason or finish
        for call in choice.delta.tool_calls or []:
            if call.index == len(calls):
                assert call.id and call.type == "function" and call.function.name, "the name comes first"
                calls.append((call.function.name, ""))
            assert call.index == len(calls) - 1
            calls[-1] = (calls[-1][0], calls[-1][1] + (call.function.arguments or ""))
    assert finish == "tool_calls"
    return calls


@pytest.mark.timeout(400)
async def test_required_calls_are_valid_and_streamed_ones_the_same(client: openai.AsyncOpenAI) -> None:
    """Who else is in a batch changes the order of floats, and with it here and there a greedy choice: what differs in
    company is asked again alone, up to ALONE times."""
    gate = asyncio.Semaphore(AT_ONCE // 2)

    async def same(seed: int) -> bool:
        tools = tool_set(seed)
        parallel = seed % 6 == 0
        request = question(tools, tool_choice="required", parallel_tool_calls=parallel)
        async with gate:
            whole, stream = await asyncio.gather(unary(client, request), streamed(client, request))
        assert whole and stream and (parallel or len(whole) == len(stream) == 1)
        for name, arguments in (*whole, *stream):
            check(tools, name, arguments)
        return stream == whole

    gathered = await asyncio.gather(*map(same, range(SETS)))
    for seed in (seed for seed, alike in enumerate(gathered) if not alike):
        request = question(tool_set(seed), tool_choice="required", parallel_tool_calls=seed % 6 == 0)
        for _ in range(ALONE):
            if await unary(client, request) == await streamed(client, request):
                break
        else:
            pytest.fail(f"tool set {seed}: the stream's calls are not those of the whole answer")


async def test_a_named_tool_is_the_one_that_is_called(client: openai.AsyncOpenAI) -> None:
    tools = [tool(name, random.Random(name)) for name in ("get_news", "set_alarm")]
    for name in ("get_news", "set_alarm"):
        choice = {"type": "function", "function": {"name": name}}
        [(called, arguments)] = await unary(client, question(tools, tool_choice=choice))
        assert called == name
        check(tools, name, arguments)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_auto_gives_content_or_a_valid_call(client: openai.AsyncOpenAI, seed: int) -> None:
    tools = tool_set(seed)
    answer = await client.chat.completions.create(**question(tools, temperature=0.8, seed=seed, max_tokens=100))
    [choice] = answer.choices
    if choice.message.tool_calls:
        assert choice.finish_reason == "tool_calls"
        for call in choice.message.tool_calls:
            check(tools, call.function.name, call.function.arguments)
    else:
        assert choice.finish_reason in ("stop", "length")
        assert choice.message.content and '"answer"' not in choice.message.content


async def test_a_result_goes_back_into_the_conversation(client: openai.AsyncOpenAI) -> None:
    tools = [tool("get_city", random.Random(0))]
    request = question(tools, tool_choice="required", parallel_tool_calls=False)
    message = (await client.chat.completions.create(**request)).choices[0].message

    async def prompt_tokens(content: str) -> int:
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": content}
        messages = [*request["messages"], message.model_dump(exclude_none=True), result]
        answer = await client.chat.completions.create(model=MODEL, messages=messages, tools=tools, max_tokens=1)
        return answer.usage.prompt_tokens

    assert await prompt_tokens("Paris Paris Paris") == await prompt_tokens("Paris") + 2


async def test_none_leaves_the_tools_out(client: openai.AsyncOpenAI) -> None:
    request = question(tool_set(1), max_tokens=4)
    with_tools = await client.chat.completions.create(**request, tool_choice="none")
    without = await client.chat.completions.create(model=MODEL, messages=request["messages"], max_tokens=4)
    assert with_tools.usage.prompt_tokens == without.usage.prompt_tokens
    assert with_tools.choices[0].message.content == without.choices[0].message.content


async def test_the_older_form(client: openai.AsyncOpenAI) -> None:
    [entry] = tool_set(5)[:1]
    function = entry["function"]
    [choice] = (
        await client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "Go on."}],
            functions=[function],
            function_call={"name": function["name"]},
        )
    ).choices
    assert choice.finish_reason == "function_call"
    check([entry], choice.message.function_call.name, choice.message.function_call.arguments)


async def test_a_keyword_that_a_call_can_not_obey_is_refused_by_name(client: openai.AsyncOpenAI) -> None:
    entry = tool("get_city", random.Random(0))
    entry["function"]["parameters"]["properties"]["x"] = {"type": "array", "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems") as refused:
        await client.chat.completions.create(**question([entry], tool_choice="required"))
    assert refused.value.param == "tools[0].function.parameters"
