"""Embeddings: every form of input, both encodings, and requests too big for one step."""

import asyncio
import itertools
import math
import struct
from array import array
from base64 import b64decode
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import openai
import orjson
import pytest
from fastapi import FastAPI
from starlette.types import Message

from api.answers.embedding import PIECE_NUMBERS, EmbeddingAnswer
from api.routes.embeddings import AT_ONCE
from api.schemas.embedding import CreateEmbeddingResponse
from deployments.backends.base import EmbedRequest, Vectors
from deployments.errors import ContextLengthExceeded, InvalidRequest, ReplicaDied
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_dispatch import LocalDispatch

ROW = [0.1, -2.5, 1e-8]


def vectors(*rows: list[float], truncated: int = 0) -> Vectors:
    return Vectors(np.array(rows, "<f4").tobytes(), len(rows[0]), prompt_tokens=4 * len(rows), truncated=truncated)


def random_rows(count: int, width: int) -> Any:
    return np.random.default_rng(7).standard_normal((count, width), np.float32)


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.result = vectors(ROW)
    return gateway


@pytest.mark.parametrize("path", ["/v1/embeddings", "/embeddings", "/v1/engines/embed/embeddings?model=nope"])
async def test_answer(gateway: LocalDispatch, client: httpx.AsyncClient, path: str) -> None:
    gateway.result = vectors(ROW, [1, 2, 3])
    response = await client.post(path, json={"model": "embed", "input": ["a", "b"]})
    assert response.status_code == 200
    body = response.json()
    CreateEmbeddingResponse.model_validate(body)
    assert (body["object"], body["model"]) == ("list", "embed")
    assert body["data"] == [
        {"object": "embedding", "index": 0, "embedding": ROW},
        {"object": "embedding", "index": 1, "embedding": [1, 2, 3]},
    ]
    assert body["usage"] == {"prompt_tokens": 8, "total_tokens": 8}
    assert gateway.requests == [("embed", "embed", EmbedRequest(inputs=["a", "b"], tenant="anonymous"))]
    assert "x-truncated-inputs" not in response.headers


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", ["a"]),
        (["a", " "], ["a", " "]),
        ([1, 2], [[1, 2]]),
        ([[1, 0], [3]], [[1, 0], [3]]),
        (["a", [1, 2]], ["a", [1, 2]]),
        ([[1], "a"], [[1], "a"]),
    ],
)
async def test_all_forms_of_input(gateway: LocalDispatch, client: httpx.AsyncClient, given: Any, inputs: Any) -> None:
    assert (await client.post("/v1/embeddings", json={"input": given})).status_code == 200
    sent = gateway.request.inputs
    assert [one if isinstance(one, str) else list(memoryview(one).cast("i")) for one in sent] == inputs


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        (b"{}", "input", "Missing"),
        (b'{"input": null}', "input", "expected a string, an array"),
        (b'{"input": 5}', "input", "expected a string, an array"),
        (b'{"input": {"a": 1}}', "input", "expected a string, an array"),
        (b'{"input": []}', "input", "the array is empty"),
        (b'{"input": ""}', "input", "the input is an empty string"),
        (b'{"input": ["a", ""]}', "input", r"input\[1\] is an empty string"),
        (b'{"input": [[]]}', "input", r"input\[0\] is an empty array"),
        (b'{"input": [true]}', "input", r"input\[0\] is a boolean"),
        (b'{"input": [[1], [true]]}', "input", r"input\[1\] is an array that holds a boolean"),
        (b'{"input": [1, "a"]}', "input", r"input\[0\] is an array that holds a string"),
        (b'{"input": ["a", 1]}', "input", r"input\[1\] is an integer"),
        (b'{"input": [1.5]}', "input", "a decimal number"),
        (b'{"input": [[1, 2.0]]}', "input", "a decimal number"),
        (b'{"input": [[[1]]]}', "input", "holds an array"),
        (b'{"input": [-1]}', "input", "negative"),
        (b'{"input": [[2147483648]]}', "input", "2147483648, which is no token id"),
        (b'{"input": ["a", null]}', "input", r"input\[1\] is null"),
        (b'{"input": "a", "dimensions": 0}', "dimensions", "at least 1"),
        (b'{"input": "a", "dimensions": true}', "dimensions", "an integer"),
        (b'{"input": "a", "encoding_format": "hex"}', "encoding_format", "base64"),
        (b'{"input": "a", "truncate": "START"}', "truncate", "'END' or 'NONE'"),
        (b'{"input": "a", "truncate": 1}', "truncate", "a boolean"),
        (b'{"input": "a", "model": 5}', "model", "a string"),
        (b'{"input": "a", "model": "echo"}', "model", "not for embedding"),
        (b'{"input": [NaN]}', None, "not valid JSON"),
    ],
)
async def test_mistakes_are_named(client: httpx.AsyncClient, body: bytes, param: str | None, words: str) -> None:
    response = await client.post("/v1/embeddings", content=body)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["param"], error["type"]) == (param, "invalid_request_error")
    with pytest.raises(InvalidRequest, match=words):
        raise InvalidRequest(error["message"])


async def test_options_reach_the_model(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    body = {"input": "a", "dimensions": 2.0, "user": "ann"}
    for given, truncate in ((True, True), (False, False), ("END", True), ("none", False), (None, None)):
        await client.post("/v1/embeddings", json={**body, "truncate": given})
        assert gateway.request == EmbedRequest(inputs=["a"], dimensions=2, truncate=truncate, tenant="anonymous")


async def test_truncated_inputs_are_told(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = vectors(ROW, ROW, truncated=2)
    response = await client.post("/v1/embeddings", json={"input": ["a", "b"]})
    assert response.headers["X-Truncated-Inputs"] == "2"


async def test_a_browser_may_read_what_was_truncated(make_app: AppFactory) -> None:
    async with http_client(make_app(cors=True), headers={"Origin": "http://page"}) as client:
        response = await client.get("/healthz")
    assert "X-Truncated-Inputs" in response.headers["access-control-expose-headers"]


@pytest.mark.parametrize("encoding_format", ["float", "base64", openai.omit])
async def test_the_official_client_gets_the_exact_floats(
    gateway: LocalDispatch, openai_client: openai.AsyncOpenAI, encoding_format: Any
) -> None:
    """Of either sign and any size, denormals and the largest too."""
    bits = np.random.default_rng(5).integers(0, 2**32, 3000, np.uint32).view(np.float32)
    edges = np.array([0, -0.0, 1e-45, 3.4028235e38, 1 / 3, 16777217, 1e16], np.float32)
    numbers = np.concatenate([bits[np.isfinite(bits)], edges]).astype("<f4")
    gateway.result = Vectors(numbers.tobytes(), len(numbers))
    answer = await openai_client.embeddings.create(model="embed", input="a", encoding_format=encoding_format)
    embedding: Any = answer.data[0].embedding
    if encoding_format == "base64":
        embedding = array("f", b64decode(embedding))
    assert np.array_equal(np.array(embedding, "<f4").view(np.uint32), numbers.view(np.uint32))


async def test_base64_is_little_endian_float32(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    body = (await client.post("/v1/embeddings", json={"input": "a", "encoding_format": "base64"})).json()
    assert list(struct.unpack("<3f", b64decode(body["data"][0]["embedding"]))) == pytest.approx(ROW)


# ---- big requests ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
async def test_many_inputs_come_in_pieces_and_are_in_order(
    gateway: LocalDispatch, client: httpx.AsyncClient, encoding_format: str
) -> None:
    rows = random_rows(1000, 24)
    gateway.script = [Vectors(rows[i : i + 256].tobytes(), 24, 300, truncated=1) for i in range(0, 1000, 256)]
    response = await client.post(
        "/v1/embeddings", json={"input": ["a"] * 1000, "encoding_format": encoding_format, "model": "embed"}
    )
    assert response.status_code == 200
    assert gateway.requests[0][:2] == ("embed", "stream_embed")
    body = response.json()
    assert [item["index"] for item in body["data"]] == list(range(1000))
    found = [item["embedding"] for item in body["data"]]
    if encoding_format == "base64":
        found = [np.frombuffer(b64decode(row), "<f4") for row in found]
    assert np.array_equal(np.array(found, np.float32), rows)
    assert body["usage"]["total_tokens"] == 1200
    assert response.headers["X-Truncated-Inputs"] == "4"


async def test_where_big_begins(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [vectors(ROW)]
    for count in (AT_ONCE, AT_ONCE + 1):
        await client.post("/v1/embeddings", json={"input": ["a"] * count})
    assert [method for _, method, _ in gateway.requests] == ["embed", "stream_embed"]


async def test_ten_thousand_vectors_leave_the_event_loop_its_turns(
    gateway: LocalDispatch, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No step writes more than PIECE_NUMBERS, none is sent with another, and between any two somebody else runs."""
    rows = random_rows(10_000, 384)
    gateway.script = [Vectors(rows[i : i + 256].tobytes(), 384, 1) for i in range(0, 10_000, 256)]
    written: list[int] = []
    turns = 0

    def dumps(value: Any, option: int | None = None) -> bytes:
        written.append(turns)
        return orjson.dumps(value, option=option)

    async def somebody_else() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    watched = SimpleNamespace(dumps=dumps, OPT_SERIALIZE_NUMPY=orjson.OPT_SERIALIZE_NUMPY)
    monkeypatch.setattr("api.answers.embedding.orjson", watched)
    sizes: list[int] = []

    async def receive() -> dict[str, Any]:
        return await waiting if sent.is_set() else body()

    def body() -> dict[str, Any]:
        sent.set()
        return {"type": "http.request", "body": b'{"input":[' + b'"a",' * 9999 + b'"a"]}', "more_body": False}

    async def send(message: Message) -> None:
        sizes.append(len(message.get("body", b"")))

    sent, waiting = asyncio.Event(), asyncio.get_running_loop().create_future()
    other = asyncio.create_task(somebody_else())
    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": [], "query_string": b""}
    await app(scope, receive, send)
    other.cancel()
    pieces = written[:-2]  # the last two are head and usage
    assert len(pieces) >= rows.size / PIECE_NUMBERS
    assert all(later > earlier for earlier, later in itertools.pairwise(pieces))
    assert len(sizes) == 1 + len(pieces)
    assert max(sizes) < 16 * PIECE_NUMBERS


@pytest.mark.parametrize("width", [8, 384, PIECE_NUMBERS, 2 * PIECE_NUMBERS + 1])
async def test_steps_are_small_whatever_the_width(width: int) -> None:
    answer = EmbeddingAnswer("m", base64=False)
    count = math.ceil(2 * PIECE_NUMBERS / width)
    await answer.add(Vectors(np.zeros((count, width), "<f4").tobytes(), width))
    sizes: list[int] = []
    parts: list[bytes] = []

    async def send(message: Message) -> None:
        parts.append(message.get("body", b""))
        sizes.append(parts[-1].count(b"0.0"))

    async def receive() -> Any:
        raise AssertionError

    await answer.response()({"type": "http"}, receive, send)
    assert max(sizes) <= max(width, PIECE_NUMBERS)
    assert max(map(len, parts)) < 16 * max(width, PIECE_NUMBERS)
    assert len(orjson.loads(b"".join(parts))["data"]) == count


async def test_an_error_on_the_way_is_an_error_response(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [vectors(*[ROW] * 256), ReplicaDied("the replica died")]
    response = await client.post("/v1/embeddings", json={"input": ["a"] * 300})
    assert response.status_code == 503
    assert response.json()["error"]["code"] == "replica_died"


async def test_a_refused_input_is_a_400(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.result = ContextLengthExceeded("input[0] has 600 tokens, and this model reads at most 512").at("input")
    with pytest.raises(openai.BadRequestError, match="600 tokens") as error:
        await openai_client.embeddings.create(model="embed", input="a", extra_body={"truncate": False})
    assert (error.value.param, error.value.code) == ("input", "context_length_exceeded")


@pytest.mark.parametrize("count", [1, 1000])
async def test_a_client_that_leaves_ends_the_work(gateway: LocalDispatch, app: FastAPI, count: int) -> None:
    gateway.wait = asyncio.Event()
    gateway.script = [vectors(ROW), gateway.wait]
    body = orjson.dumps({"input": ["a"] * count})
    async with Served(app) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        async with asyncio.timeout(5):
            while not gateway.requests:
                await asyncio.sleep(0.01)
            writer.close()
            await gateway.ended.wait()


async def test_a_body_of_50_mb_is_refused(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/embeddings", content=b'{"input": "' + b"a" * 50_000_000 + b'"}')
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "request_too_large"
