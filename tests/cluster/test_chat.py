"""Chat over HTTP through HAProxy, ingress and handle, on echo models."""

import asyncio
import json
import random
import string
from collections.abc import AsyncIterator, Iterator

import httpx
import openai
import pytest

from tests.serving import KEY, Server, eventually


def words(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(count))


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


def test_a_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="echo", messages=[{"role": "user", "content": "hello 🐳"}])
    assert answer.choices[0].message.content == "hello 🐳"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.completion_tokens == 10


def test_a_stream_of_chunks(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="echo",
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "hello"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None and chunks[-1].usage.total_tokens == 10
    assert len({c.id for c in chunks}) == 1


def test_the_raw_response_carries_a_request_id(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="echo", messages=[{"role": "user", "content": "x"}], extra_headers={"X-Request-ID": "my-id-1"}
    )
    assert raw.headers["x-request-id"] == "my-id-1"
    assert raw.parse().choices[0].message.content == "x"


async def test_32_streams_at_once_keep_their_own_tokens(async_client: openai.AsyncOpenAI) -> None:
    async def one(i: int) -> tuple[str, str]:
        text = words(40, seed=i)
        stream = await async_client.chat.completions.create(
            model="echo-slow", messages=[{"role": "user", "content": text}], stream=True
        )
        return text, "".join([c.choices[0].delta.content or "" async for c in stream])

    for sent, received in await asyncio.gather(*(one(i) for i in range(32))):
        assert received == sent


async def test_200_clients_that_vanish_leave_nothing_behind(server: Server) -> None:
    body = {"model": "echo-endless", "messages": [{"role": "user", "content": "abc"}], "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}

    async def vanish(client: httpx.AsyncClient) -> None:
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if '"content":"' in line:
                    return

    async def wave(count: int) -> None:
        async with httpx.AsyncClient(base_url=server.url, headers=headers, timeout=60, trust_env=False) as client:
            await asyncio.gather(*(vanish(client) for _ in range(count)))

    await wave(50)  # what is made once, is made now
    replica = server.replica("echo-endless")
    assert replica is not None
    eventually(lambda: server.in_flight("echo-endless") == 0)
    before = replica.memory_info().rss
    for _ in range(4):
        await wave(50)
    eventually(lambda: server.in_flight("echo-endless") == 0)
    assert replica.memory_info().rss - before < 16 * 2**20


def test_a_client_that_leaves_before_a_whole_answer_leaves_nothing_behind(server: Server) -> None:
    """Without an end: five minutes of work."""
    server.write_model("ages", options='["delay:1"]')
    body = {"model": "ages", "messages": [{"role": "user", "content": "a" * 300}]}
    with server.client() as client:
        client.post("/backend/load", json={"model": "ages"}).raise_for_status()
        with pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=body, timeout=httpx.Timeout(60, read=1))
    eventually(lambda: server.in_flight("ages") == 0, seconds=20)
    server.remove_model("ages")


def test_an_error_in_the_middle_of_a_stream_is_an_event(server: Server) -> None:
    body = {"model": "echo-fails", "messages": [{"role": "user", "content": "hello"}], "stream": True}
    with server.client() as client:
        response = client.post("/v1/chat/completions", json=body)
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert response.status_code == 200 and events[-1] == "[DONE]"
    error = json.loads(events[-2])["error"]
    assert "told to fail after 3" in error["message"] and error["code"] == "engine_error"
    content = "".join(c["delta"].get("content") or "" for e in events[:-2] for c in json.loads(e)["choices"])
    assert content == "hel"


SAY = {"messages": [{"role": "user", "content": "x"}]}
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "param"),
    [
        (CHAT, {"model": "nope", **SAY}, 404, "model_not_found", "model"),
        (CHAT, {"model": "echo", "messages": []}, 400, None, "messages"),
        (CHAT, {"model": "echo"}, 400, None, "messages"),
        (CHAT, {"model": "echo", "messages": "hi"}, 400, None, "messages"),
        (CHAT, {"model": "echo", "temperature": "hot", **SAY}, 400, None, "temperature"),
        (CHAT, '{"model": "echo", "messages": [{"role": "user", "content": "x"}', 400, None, None),
        (CHAT, "", 400, None, None),
        (TEXT, {"model": "echo", "prompt": {"a": 1}}, 400, None, "prompt"),
        (TEXT, {"model": "echo-tiny", "prompt": "x" * 100}, 400, "context_length_exceeded", None),
        ("/v1/nothing", {}, 404, "not_found", None),
    ],
)
def test_bad_requests_get_their_4xx(
    server: Server, path: str, body: str | dict[str, object], status: int, code: str | None, param: str | None
) -> None:
    content = body if isinstance(body, str) else json.dumps(body)
    with server.client() as client:
        response = client.post(path, content=content, headers={"Content-Type": "application/json"})
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert code is None or error["code"] == code
    assert param is None or error["param"] == param
    assert "Traceback" not in response.text


def test_both_numbers_are_in_the_overflow_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"64 tokens.* 100 tokens"):
        client.completions.create(model="echo-tiny", prompt="x" * 100)


def test_no_key_is_401(server: Server) -> None:
    response = httpx.get(f"{server.url}/v1/models", trust_env=False)
    assert response.status_code == 401
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_body_over_the_limit_is_413(server: Server) -> None:
    with server.client() as client:
        response = client.post("/v1/chat/completions", content=b" " * (21 * 2**20))
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"


def test_list_prompts_have_their_indexes(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="echo", prompt=["ab", "cd"], n=2)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "ab"), (1, "ab"), (2, "cd"), (3, "cd")]


def test_routes_without_v1_and_with_engines(server: Server) -> None:
    with server.client() as client:
        for path in ("/completions", "/v1/engines/echo/completions"):
            response = client.post(path, json={"model": "echo", "prompt": "hi"})
            assert response.json()["choices"][0]["text"] == "hi"
        tokens = client.post("/v1/tokenize", json={"model": "echo", "content": "hi"}).json()
        assert tokens["tokens"] == [104, 105]


def test_swagger_and_openapi(server: Server) -> None:
    with server.client() as client:
        assert "/v1/chat/completions" in client.get("/openapi.json").json()["paths"]
        page = client.get("/swagger/")
        assert page.status_code == 200 and "swagger" in page.text.lower()
        assert client.get("/version").json()["version"]
