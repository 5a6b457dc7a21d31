"""Speech over OpenAI's route, LocalAI's and ElevenLabs': whole, as it is made, and in events."""

import asyncio
import json
from base64 import b64decode
from typing import Any

import httpx
import openai
import pytest

from deployments.audio_formats import FORMATS
from deployments.backends.base import AudioChunk, SpeechRequest
from deployments.errors import EngineError, InvalidRequest
from tests.unit.http_clients import AppFactory, Served
from tests.unit.local_dispatch import AUDIO_CARDS, LocalDispatch
from tests.unit.waiting import until

PATHS = ("/v1/audio/speech", "/audio/speech", "/tts", "/v1/text-to-speech/anna")
HELLO = {"input": "Hello."}


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.installed = AUDIO_CARDS
    gateway.result = AudioChunk(b"whole")
    gateway.script = [AudioChunk(b"one "), AudioChunk(b"two")]
    return gateway


# ---- whole files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
async def test_without_a_format_it_is_a_wav(gateway: LocalDispatch, client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json=HELLO)
    assert response.status_code == 200
    assert response.content == b"whole"
    assert response.headers["content-type"] == "audio/x-wav"
    assert response.headers["content-length"] == "5"
    assert response.headers["content-disposition"] == 'attachment; filename="tts.wav"'
    voice = "anna" if "anna" in path else None
    request_id = response.headers["x-request-id"]
    asked = SpeechRequest(text="Hello.", voice=voice, tenant="anonymous", request_id=request_id)
    assert gateway.requests == [("voice", "speak", asked)]
    assert gateway.large, "minutes of WAV are megabytes"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FORMATS)
async def test_formats(gateway: LocalDispatch, client: httpx.AsyncClient, path: str, name: str) -> None:
    response = await client.post(path, json={**HELLO, "response_format": name, "stream": False})
    assert response.content == b"whole"
    assert response.headers["content-type"] == FORMATS[name].media_type
    assert response.headers["content-disposition"] == f'attachment; filename="tts.{FORMATS[name].suffix}"'
    assert gateway.request.format == name


async def test_fields(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    body = {**HELLO, "model": "voice", "voice": "bob", "language": "de", "speed": 2, "backend": "piper", "x": 1}
    assert (await client.post("/tts", json=body)).status_code == 200
    request = gateway.request
    assert (request.voice, request.language, request.speed) == ("bob", "de", 2.0)


async def test_what_is_empty_is_left_out(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    """As LocalAI's clients send it."""
    body = {**HELLO, "model": "", "voice": "", "language": "", "response_format": "", "speed": None}
    assert (await client.post("/tts", json=body)).headers["content-type"] == "audio/x-wav"
    request = gateway.request
    assert (request.voice, request.language, request.speed) == (None, None, 1.0)


async def test_a_voice_by_id(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await client.post("/v1/audio/speech", json={**HELLO, "voice": {"id": "voice_1"}})
    assert gateway.request.voice == "voice_1"


# ---- as it is made ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "in_pieces"),
    [
        ({}, False),
        ({"stream": True}, True),
        ({"stream_format": "audio"}, True),
        ({"response_format": "wav"}, False),
        ({"response_format": "flac"}, False),
        ({"response_format": "mp3"}, True),
        ({"response_format": "mp3", "stream": False}, False),
        ({"response_format": "opus"}, True),
        ({"response_format": "aac"}, True),
        ({"response_format": "pcm"}, True),
    ],
)
async def test_when_it_is_sent_in_pieces(
    gateway: LocalDispatch, client: httpx.AsyncClient, fields: dict[str, Any], in_pieces: bool
) -> None:
    response = await client.post("/v1/audio/speech", json={**HELLO, **fields})
    assert response.content == (b"one two" if in_pieces else b"whole")
    assert gateway.requests[0][1] == ("stream_speak" if in_pieces else "speak")
    assert response.headers["content-type"] == (
        FORMATS[fields["response_format"]].media_type if "response_format" in fields else "audio/x-wav"
    )
    assert ("content-length" in response.headers) != in_pieces


async def test_the_first_audio_comes_before_the_last_is_made(make_app: AppFactory, gateway: LocalDispatch) -> None:
    rest = asyncio.Event()
    gateway.script.insert(1, rest)
    async with (
        Served(make_app()) as served,
        httpx.AsyncClient(base_url=served.url) as client,
        client.stream("POST", "/tts", json={**HELLO, "stream": True}) as response,
    ):
        pieces = response.aiter_raw()
        assert await asyncio.wait_for(anext(pieces), 5) == b"one "
        rest.set()
        assert b"".join([piece async for piece in pieces]) == b"two"


async def test_the_official_client_streams_to_a_file(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    async with openai_client.audio.speech.with_streaming_response.create(
        model="voice", voice="bob", input="Hello.", response_format="mp3"
    ) as response:
        assert b"".join([piece async for piece in response.iter_bytes()]) == b"one two"


async def test_events(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/audio/speech", json={**HELLO, "stream_format": "sse"})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, last = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert last == "[DONE]"
    *deltas, done = map(json.loads, events)
    assert [event["type"] for event in deltas] == ["speech.audio.delta"] * 2
    assert b"".join(b64decode(event["audio"]) for event in deltas) == b"one two"
    assert done == {"type": "speech.audio.done"}


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream_format": "sse"}])
async def test_an_error_before_the_first_audio_has_its_status(
    gateway: LocalDispatch, client: httpx.AsyncClient, fields: dict[str, Any]
) -> None:
    error = InvalidRequest("no voice 'zed'; there are: anna, bob").at("voice")
    gateway.result, gateway.script = error, [error]
    response = await client.post("/tts", json={**HELLO, "voice": "zed", **fields})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "voice"
    assert "anna" in response.json()["error"]["message"]


async def test_an_error_later_breaks_the_connection(make_app: AppFactory, gateway: LocalDispatch) -> None:
    """Else the client would take half of the file for all of it."""
    gateway.script = [AudioChunk(b"one "), EngineError("out of memory")]
    async with Served(make_app()) as served, httpx.AsyncClient(base_url=served.url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post("/tts", json={**HELLO, "stream": True})


async def test_an_error_later_is_an_event(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [AudioChunk(b"one "), EngineError("out of memory")]
    text = (await client.post("/tts", json={**HELLO, "stream_format": "sse"})).text
    assert json.loads(text.split("\n\n")[1].removeprefix("data: "))["error"]["message"] == "out of memory"
    assert "speech.audio.done" not in text


async def test_a_stream_of_nothing_is_an_empty_file(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = []
    response = await client.post("/tts", json={**HELLO, "stream": True})
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("after_first", [True, False])
@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"stream_format": "sse"}])
async def test_a_client_that_leaves_ends_the_work(
    make_app: AppFactory, gateway: LocalDispatch, fields: dict[str, Any], after_first: bool
) -> None:
    gateway.wait = asyncio.Event()
    gateway.script = [*([AudioChunk(b"one ")] if after_first else []), asyncio.Event()]
    async with Served(make_app()) as served, httpx.AsyncClient(base_url=served.url) as client:
        asked = asyncio.create_task(client.post("/tts", json={**HELLO, **fields}, timeout=60))
        await until(lambda: gateway.requests)
        asked.cancel()
        await asyncio.wait_for(gateway.ended.wait(), 5)


# ---- ElevenLabs ------------------------------------------------------------------------------------------------------


async def test_elevenlabs_own_request(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    body = {
        "text": "Hallo.",
        "model_id": "voice",
        "language_code": "de",
        "voice_settings": {"speed": 1.2, "stability": 0.5},
    }
    response = await client.post("/v1/text-to-speech/anna?output_format=mp3_44100_128", json=body)
    assert response.headers["content-type"] == "audio/mpeg"
    request = gateway.request
    assert (request.text, request.voice, request.language) == ("Hallo.", "anna", "de")
    assert (request.speed, request.format) == (1.2, "mp3")


async def test_the_swagger_s_request(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    """LocalAI documents its own fields for ElevenLabs' path; the voice is the path's."""
    body = {**HELLO, "model": "voice", "voice": "bob", "backend": "piper", "language": "en"}
    assert (await client.post("/v1/text-to-speech/anna", json=body)).content == b"whole"
    assert (gateway.request.voice, gateway.request.language) == ("anna", "en")


async def test_a_voice_that_is_a_path(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    await client.post("/v1/text-to-speech/voices%2Fanna%20b.wav", json=HELLO)
    assert gateway.request.voice == "voices/anna b.wav"


async def test_the_document_shows_the_swagger_s_name(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert not any("voice_id" in path for path in paths)
    (parameter,) = [p for p in paths["/v1/text-to-speech/{voice-id}"]["post"]["parameters"] if p["in"] == "path"]
    assert (parameter["name"], parameter["required"]) == ("voice-id", True)


@pytest.mark.parametrize("name", ["pcm_22050", "ulaw_8000", "ogg"])
async def test_output_formats_that_are_not_there(client: httpx.AsyncClient, name: str) -> None:
    response = await client.post(f"/v1/text-to-speech/anna?output_format={name}", json=HELLO)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "output_format"


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"input": None}, "input", "a string"),
        ({"input": 7}, "input", "a string"),
        ({"input": ""}, "input", "no"),
        ({"input": " \n"}, "input", "text to speak"),
        ({"speed": 0.2}, "speed", "at least 0.25"),
        ({"speed": 4.1}, "speed", "at most 4"),
        ({"speed": "fast"}, "speed", "a number"),
        ({"response_format": "midi"}, "response_format", "wav, mp3, opus, aac, flac, pcm"),
        ({"response_format": 3}, "response_format", "a string"),
        ({"stream_format": "video"}, "stream_format", "'audio' or 'sse'"),
        ({"voice": 3}, "voice", "a string"),
        ({"model": "nope"}, "model", "nope"),
        ({"model": "echo"}, "model", "not for speech"),
    ],
)
async def test_mistakes(
    gateway: LocalDispatch, client: httpx.AsyncClient, fields: dict[str, Any], param: str, words: str
) -> None:
    response = await client.post("/v1/audio/speech", json={**HELLO, **fields})
    error = response.json()["error"]
    assert response.status_code in (400, 404), error
    assert error["param"] == param
    assert words in error["message"]
    assert gateway.requests == []


@pytest.mark.parametrize("path", PATHS)
async def test_no_text(client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, json={})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == ("text" if "anna" in path else "input")
