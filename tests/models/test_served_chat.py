"""SmolLM2 behind the running server, used with the official client as a user would."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import jsonschema
import openai
import pytest

from tests.serving import KEY, Server, eventually

MODEL = "smollm2-135m-instruct"
QUESTION = [
    {"role": "system", "content": "You are a helpful assistant."},  # the template's own makes it answer in French
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture
def client(server: Server, smollm2: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def async_client(server: Server, smollm2: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def test_it_knows_the_capital_of_france(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, temperature=0, max_tokens=32)  # type: ignore[arg-type]
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None and answer.usage.prompt_tokens > 10 and answer.usage.completion_tokens > 3


def test_stream_and_whole_answer_are_the_same_text(client: openai.OpenAI) -> None:
    options = {"model": MODEL, "messages": QUESTION, "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**options)  # type: ignore[call-overload]
    chunks = list(client.chat.completions.create(**options, stream=True))  # type: ignore[call-overload]
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_the_limit_is_said(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model=MODEL, messages=QUESTION, max_completion_tokens=3)  # type: ignore[arg-type]
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 3


def test_logprobs_of_chat_are_those_of_the_tokens(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        temperature=0,
        max_tokens=8,
        logprobs=True,
        top_logprobs=3,  # type: ignore[arg-type]
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == answer.choices[0].message.content
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token, "greedy takes the best"
        assert entry.logprob <= 0


def test_n_choices_share_one_prompt_and_differ(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Invent a name for a dragon."}],
        n=4,
        temperature=1.5,
        max_tokens=12,
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert len({choice.message.content for choice in answer.choices}) > 1


def test_a_seed_repeats_an_answer(client: openai.OpenAI) -> None:
    options = {"model": MODEL, "prompt": "Once upon a time", "temperature": 1.2, "max_tokens": 16, "seed": 42}
    first, second = (client.completions.create(**options).choices[0].text for _ in range(2))  # type: ignore[call-overload]
    other = client.completions.create(**{**options, "seed": 43}).choices[0].text  # type: ignore[call-overload]
    assert first == second != other


def test_completion_with_echo_and_legacy_logprobs(client: openai.OpenAI) -> None:
    echoed = client.completions.create(
        model=MODEL, prompt="Count: one, two, three,", echo=True, temperature=0, max_tokens=4
    )
    assert echoed.choices[0].text.startswith("Count: one, two, three,")
    answer = client.completions.create(model=MODEL, prompt="Count: one, two,", logprobs=2, temperature=0, max_tokens=4)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens is not None
    assert "".join(logprobs.tokens) == answer.choices[0].text


def test_stop_strings_end_the_answer(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=MODEL, prompt="1, 2, 3, 4, 5,", stop=[" 8", "9,"], temperature=0, max_tokens=64
    )
    assert answer.choices[0].finish_reason == "stop"
    assert "8" not in answer.choices[0].text


SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[A-Z][a-z]{2,8}$"},
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "kind": {"enum": ["cat", "dog"]},
        "scores": {"type": "array", "items": {"$ref": "#/$defs/score"}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "kind", "scores"],
    "additionalProperties": False,
    "$defs": {
        "score": {
            "type": "object",
            "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 10}},
            "required": ["v"],
            "additionalProperties": False,
        }
    },
}


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_json_schema_holds(client: openai.OpenAI, seed: int) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe a pet as JSON."}],
        response_format={"type": "json_schema", "json_schema": {"name": "pet", "strict": True, "schema": SCHEMA}},
        temperature=1.0,
        seed=seed,
        max_tokens=400,
    )
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), SCHEMA)


def test_json_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Give me a JSON object with the key animal."}],
        response_format={"type": "json_object"},
        temperature=0,
        max_tokens=300,
    )
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content or ""), dict)
    else:
        assert (answer.choices[0].message.content or "").lstrip().startswith("{")


def test_a_keyword_that_cannot_be_kept_is_refused_by_name(client: openai.OpenAI) -> None:
    schema = {"type": "array", "items": {"type": "integer"}, "uniqueItems": True}
    with pytest.raises(openai.BadRequestError, match="uniqueItems"):
        client.chat.completions.create(
            model=MODEL,
            messages=QUESTION,  # type: ignore[arg-type]
            response_format={"type": "json_schema", "json_schema": {"name": "s", "schema": schema}},
        )


def test_gbnf_grammar(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=QUESTION,
        extra_body={"grammar": 'root ::= "yes" | "no"'},
        temperature=0,  # type: ignore[arg-type]
    )
    assert answer.choices[0].message.content in ("yes", "no")
    with pytest.raises(openai.BadRequestError, match="grammar"):
        client.chat.completions.create(model=MODEL, messages=QUESTION, extra_body={"grammar": "root ::= ("})  # type: ignore[arg-type]


def test_an_over_long_prompt_is_refused_with_both_numbers(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=MODEL, prompt="word " * 9000)
    assert refused.value.code == "context_length_exceeded"
    assert "8192" in refused.value.message and "900" in refused.value.message


async def test_concurrent_greedy_streams_answer_as_alone_at_first(async_client: openai.AsyncOpenAI) -> None:
    """Batch shape changes float order, so long answers may part; their beginnings don't."""
    prompts = [f"The number after {i} is" for i in range(8)]

    async def one(prompt: str) -> str:
        answer = await async_client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=2)
        return answer.choices[0].text

    alone = [await one(prompt) for prompt in prompts]
    together = await asyncio.gather(*(one(prompt) for prompt in prompts))
    assert sum(a == b for a, b in zip(alone, together, strict=True)) >= 6


def test_a_bare_gguf_is_usable_by_its_file_name(server: Server, client: openai.OpenAI, smollm2_path: Path) -> None:
    loose = server.models_path / "loose.gguf"
    loose.symlink_to(smollm2_path)
    eventually(lambda: "loose.gguf" in [model.id for model in client.models.list()])
    answer = client.chat.completions.create(model="loose.gguf", messages=QUESTION, temperature=0, max_tokens=16)  # type: ignore[arg-type]
    assert "Paris" in (answer.choices[0].message.content or "")
    loose.unlink()


def test_tokens_of_a_text(server: Server, smollm2: str) -> None:
    with server.client() as client:
        tokens = client.post("/v1/tokenize", json={"model": smollm2, "content": "Hello world"}).json()["tokens"]
    assert len(tokens) == 2
