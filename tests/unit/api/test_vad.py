"""Voice activity over HTTP."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from api.schemas.vad import STEP, VADResponse
from deployments.backends.base import SpeechSpan
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_dispatch import AUDIO_CARDS, LocalDispatch


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.installed = AUDIO_CARDS
    gateway.result = [SpeechSpan(0.1, 1.25), SpeechSpan(2.0, 3.5)]
    return gateway


@pytest.mark.parametrize("path", ["/vad", "/v1/vad"])
async def test_segments(gateway: LocalDispatch, client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={"model": "detector", "audio": [0, 0.5, -1.0]})
    assert response.status_code == 200
    VADResponse.model_validate(response.json())
    assert response.json() == {"segments": [{"start": 0.1, "end": 1.25}, {"start": 2.0, "end": 3.5}]}
    ((model, method, request),) = gateway.requests
    assert (model, method, gateway.large) == ("detector", "detect", False)
    assert (request.audio.dtype, request.audio.tolist()) == (np.float32, [0.0, 0.5, -1.0])
    assert (request.sample_rate, request.tenant) == (16_000, "anonymous")


async def test_another_rate(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await client.post("/vad", json={"audio": [0.0], "sample_rate": 8000.0})
    assert gateway.request.sample_rate == 8000


@pytest.mark.parametrize("length", [STEP - 1, STEP, 2 * STEP + 1, 2**18])
async def test_long_audio_arrives_whole(gateway: LocalDispatch, client: httpx.AsyncClient, length: int) -> None:
    samples = np.random.default_rng(length).uniform(-1, 1, length).astype(np.float32)
    assert (await client.post("/vad", json={"audio": samples.tolist()})).status_code == 200
    assert np.array_equal(gateway.request.audio, samples)
    assert gateway.large == (length == 2**18)


async def test_large_bodies_leave_the_loop_free(
    make_app: AppFactory, gateway: LocalDispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million samples take 0.3 s to parse and convert: others get their turn meanwhile."""
    content = b'{"audio":[' + b",".join([b"0.12345678"] * 1_000_000) + b"]}"

    async def turns_meanwhile() -> int:
        turns = 0

        async def watch() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.001)
                turns += 1

        async with http_client(make_app()) as client:
            watching = asyncio.create_task(watch())
            assert (await client.post("/vad", content=content)).status_code == 200
            watching.cancel()
        assert len(gateway.request.audio) == 1_000_000
        return turns

    async def on_the_loop(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    in_threads = await turns_meanwhile()
    monkeypatch.setattr(asyncio, "to_thread", on_the_loop)
    assert in_threads > await turns_meanwhile()


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"audio": None}, "audio", "null"),
        ({"audio": "AAAA"}, "audio", "a string"),
        ({"audio": []}, "audio", "empty"),
        ({"audio": [0.0, "0.5"]}, "audio", "a string"),
        ({"audio": [0.0] * STEP + [True]}, "audio", "a boolean"),
        ({"audio": [[0.0]]}, "audio", "an array"),
        ({"audio": [None]}, "audio", "null"),
        ({"audio": [1e300]}, "audio", "float32"),
        ({"sample_rate": 0}, "sample_rate", "at least"),
        ({"model": "voice"}, "model", "not for vad"),
    ],
)
async def test_mistakes(
    gateway: LocalDispatch, client: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    response = await client.post("/vad", json={"audio": [0.0], **fields})
    error = response.json()["error"]
    assert response.status_code == 400, error
    assert error["param"] == param
    assert words in error["message"]
    assert gateway.requests == []


async def test_no_audio(client: httpx.AsyncClient) -> None:
    response = await client.post("/vad", json={})
    assert response.json()["error"]["param"] == "audio"
