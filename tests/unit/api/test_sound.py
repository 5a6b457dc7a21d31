"""Sound generation, as ElevenLabs asks for it."""

from typing import Any

import httpx
import pytest

from deployments.backends.base import AudioChunk, SoundRequest
from deployments.errors import InvalidRequest
from tests.unit.local_dispatch import AUDIO_CARDS, LocalDispatch

PATH = "/v1/sound-generation"
RAIN = {"text": "rain on a tin roof"}


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.installed = AUDIO_CARDS
    gateway.result = AudioChunk(b"whole")
    return gateway


async def test_the_default_is_a_wav(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    response = await client.post(PATH, json=RAIN)
    assert (response.status_code, response.content) == (200, b"whole")
    assert response.headers["content-type"] == "audio/x-wav"
    assert response.headers["content-disposition"] == 'attachment; filename="sound_generation.wav"'
    assert gateway.requests == [("composer", "compose", SoundRequest(text=RAIN["text"], tenant="anonymous"))]
    assert gateway.large


@pytest.mark.parametrize("model", ["model_id", "model"])
async def test_fields(gateway: LocalDispatch, client: httpx.AsyncClient, model: str) -> None:
    body = {**RAIN, model: "composer", "duration_seconds": 2, "prompt_influence": 0.3, "do_sample": False, "seed": 7}
    assert (await client.post(f"{PATH}?output_format=mp3_44100_128", json=body)).headers["content-type"] == "audio/mpeg"
    assert gateway.request == SoundRequest(
        text=RAIN["text"], seconds=2.0, guidance=0.3, do_sample=False, seed=7, format="mp3", tenant="anonymous"
    )


async def test_a_negative_seed_is_a_random_one(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await client.post(PATH, json={**RAIN, "seed": -1})
    assert gateway.request.seed is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"text": None}, "text"),
        ({"text": " "}, "text"),
        ({"duration_seconds": 0}, "duration_seconds"),
        ({"duration_seconds": "long"}, "duration_seconds"),
        ({"prompt_influence": -1}, "prompt_influence"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"seed": 1.5}, "seed"),
        ({"model_id": "nope"}, "model"),
        ({"model_id": "voice"}, "model"),
    ],
)
async def test_mistakes(gateway: LocalDispatch, client: httpx.AsyncClient, fields: dict[str, Any], param: str) -> None:
    response = await client.post(PATH, json={**RAIN, **fields})
    assert response.status_code in (400, 404)
    assert response.json()["error"]["param"] == param
    assert gateway.requests == []


async def test_what_the_replica_refuses(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = InvalidRequest("at most 30 s").at("duration_seconds")
    response = await client.post(PATH, json={**RAIN, "duration_seconds": 31})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "duration_seconds"
