"""Transcriptions and translations: the form, every format, the stream, and what is left of an upload."""

import asyncio
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai.types.audio import TranscriptionVerbose as OpenAIVerbose

from api.answers.transcription import SEGMENT_FIELDS, WRITERS
from api.schemas.transcription import STREAMED, TranscriptionSegment, TranscriptionVerbose
from deployments.backends.base import Segment, SegmentGroup, Transcription, TranscriptionRequest, Word
from deployments.errors import EngineError, InvalidRequest
from tests.unit.http_clients import AppFactory, Served, http_client
from tests.unit.local_dispatch import AUDIO_CARDS, LocalDispatch
from tests.unit.waiting import until

CONTENT = b"RIFF....WAVE"
FILE = {"file": ("speech.wav", CONTENT)}
MIB = 2**20


def segment(number: int, start: float, end: float, text: str, *words: Word) -> Segment:
    return Segment(number, start, end, text, [1, 2], 0.0, -0.25, 1.5, 0.125, 100 * number, list(words))


SEGMENTS = [
    segment(0, 0.0, 1.5, " Good --> bye,", Word(" Good", 0.0, 0.7, 0.9), Word(" bye,", 0.7, 1.5, 0.8)),
    segment(1, 61.25, 3723.9996, " all. ", Word(" all.", 61.25, 62.0, 0.7)),
]


@pytest.fixture
def gateway() -> LocalDispatch:
    gateway = LocalDispatch()
    gateway.installed = AUDIO_CARDS
    gateway.result = Transcription("en", 3725.5, SEGMENTS)
    gateway.script = [
        SegmentGroup([], "en", 3725.5),
        SegmentGroup(SEGMENTS[:1]),
        SegmentGroup(SEGMENTS[1:]),
    ]
    return gateway


@pytest.fixture
def uploads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads go that are too large for memory."""
    folder = tmp_path / "uploads"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


# ---- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/audio/transcriptions", "/audio/transcriptions"])
async def test_the_default_answer_is_the_text_alone(
    gateway: LocalDispatch, client: httpx.AsyncClient, path: str
) -> None:
    response = await client.post(path, files=FILE)
    assert response.status_code == 200
    assert response.json() == {"text": "Good --> bye, all."}
    ((model, method, request),) = gateway.requests
    assert (model, method, gateway.large) == ("whisper", "transcribe", False)
    assert isinstance(request, TranscriptionRequest)
    assert request.audio.dtype == np.uint8
    assert request.audio.tobytes() == CONTENT
    assert (request.translate, request.language, request.prompt) == (False, None, None)
    assert (request.temperature, request.word_timestamps, request.tenant) == (None, False, "anonymous")
    assert request.request_id == response.headers["x-request-id"]


@pytest.mark.parametrize("path", ["/v1/audio/translations", "/audio/translations"])
async def test_translations(gateway: LocalDispatch, client: httpx.AsyncClient, path: str) -> None:
    response = await client.post(path, files=FILE, data={"response_format": "verbose_json"})
    assert gateway.request.translate
    assert (response.json()["task"], response.json()["language"]) == ("translate", "english")


async def test_fields_are_matched_whatever_their_case(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    """As LocalAI does. Its `backend` and unknown fields pass; what is empty is left out."""
    fields = {
        "Model": "whisper",
        "LANGUAGE": "De",
        "Prompt": "Ah, ",
        "Temperature": "0.5",
        "translate": "true",
        "backend": "whisper",
        "response_format": "",
        "colour": "blue",
    }
    response = await client.post("/v1/audio/transcriptions", files={"File": FILE["file"]}, data=fields)
    assert response.json() == {"text": "Good --> bye, all."}
    request = gateway.request
    assert (request.language, request.prompt, request.temperature, request.translate) == ("de", "Ah, ", 0.5, True)


@pytest.mark.parametrize("language", ["", "auto"])
async def test_a_language_to_be_found_out(gateway: LocalDispatch, client: httpx.AsyncClient, language: str) -> None:
    await client.post("/v1/audio/transcriptions", files=FILE, data={"language": language})
    assert gateway.request.language is None


async def test_the_query_names_the_model_first(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/audio/transcriptions?model=whisper", files=FILE, data={"model": "nope"})
    assert response.status_code == 200


# ---- formats ---------------------------------------------------------------------------------------------------------

SRT = """1
00:00:00,000 --> 00:00:01,500
Good -> bye,

2
00:01:01,250 --> 01:02:04,000
all.

"""


@pytest.mark.parametrize(
    ("name", "media_type", "text"),
    [
        ("json", "application/json", '{"text":"Good --> bye, all."}'),
        ("text", "text/plain; charset=utf-8", "Good --> bye, all.\n"),
        ("txt", "text/plain; charset=utf-8", "Good --> bye, all.\n"),
        ("srt", "application/x-subrip", SRT),
        (
            "vtt",
            "text/vtt; charset=utf-8",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.500\nGood -> bye,\n\n00:01:01.250 --> 01:02:04.000\nall.\n\n",
        ),
        ("lrc", "text/plain; charset=utf-8", "[00:00.00]Good -> bye,\n[01:01.25]all.\n"),
    ],
)
async def test_formats(client: httpx.AsyncClient, name: str, media_type: str, text: str) -> None:
    response = await client.post("/v1/audio/transcriptions", files=FILE, data={"response_format": name})
    assert response.headers["content-type"] == media_type
    assert response.text == text


def test_every_format_is_tested() -> None:
    marks = test_formats.pytestmark  # type: ignore[attr-defined]
    assert {row[0] for row in marks[0].args[1]} | {"verbose_json"} == set(WRITERS)


def test_lyrics_of_more_than_a_hundred_minutes() -> None:
    long = Transcription("en", 7300.0, [segment(0, 7262.999, 7300.0, "late")])
    assert WRITERS["lrc"].write(long, None) == "[121:03.00]late\n"  # type: ignore[arg-type]


async def test_verbose_json(client: httpx.AsyncClient) -> None:
    data = {"response_format": "verbose_json"}
    body = (await client.post("/v1/audio/transcriptions", files=FILE, data=data)).json()
    TranscriptionVerbose.model_validate(body)
    OpenAIVerbose.model_validate(body)
    assert "words" not in body
    segments = body.pop("segments")
    assert body == {
        "task": "transcribe",
        "language": "english",
        "duration": 3725.5,
        "text": "Good --> bye, all.",
        "usage": {"type": "duration", "seconds": 3725.5},
    }
    assert segments[0] == {
        "id": 0,
        "seek": 0,
        "start": 0.0,
        "end": 1.5,
        "text": " Good --> bye,",
        "tokens": [1, 2],
        "temperature": 0.0,
        "avg_logprob": -0.25,
        "compression_ratio": 1.5,
        "no_speech_prob": 0.125,
    }


def test_segments_have_the_documented_fields() -> None:
    assert set(SEGMENT_FIELDS) == set(TranscriptionSegment.model_fields)


@pytest.mark.parametrize("granularities", [["word"], ["segment"], ["word", "segment"]])
async def test_granularities(
    gateway: LocalDispatch, openai_client: openai.AsyncOpenAI, granularities: list[Any]
) -> None:
    answer = await openai_client.audio.transcriptions.create(
        model="whisper", file=CONTENT, response_format="verbose_json", timestamp_granularities=granularities
    )
    assert (answer.segments is not None) == ("segment" in granularities)
    assert gateway.request.word_timestamps == ("word" in granularities)
    words = [(word.word, word.start, word.end) for word in answer.words or ()]
    assert words == ([("Good", 0.0, 0.7), ("bye,", 0.7, 1.5), ("all.", 61.25, 62.0)] if answer.words else [])
    assert (answer.words is not None) == ("word" in granularities)


async def test_the_official_client_reads_text(openai_client: openai.AsyncOpenAI) -> None:
    assert (await openai_client.audio.transcriptions.create(model="whisper", file=CONTENT)).text
    text = await openai_client.audio.transcriptions.create(model="whisper", file=CONTENT, response_format="srt")
    assert text == SRT
    with pytest.deprecated_call():
        assert (await openai_client.audio.translations.create(model="whisper", file=CONTENT)).text


# ---- streams ---------------------------------------------------------------------------------------------------------


async def test_a_stream_is_openai_s_events(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    stream = await openai_client.audio.transcriptions.create(model="whisper", file=CONTENT, stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert deltas == ["Good --> bye,", " all."]
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == "".join(deltas)
    assert gateway.requests[0][1] == "stream_transcribe"


async def test_space_inside_a_stream_is_kept(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    texts = [" ", " one \n", " ", "two", "  "]
    gateway.script = [SegmentGroup([segment(0, 0, 1, text)]) for text in texts]
    stream = await openai_client.audio.transcriptions.create(model="whisper", file=CONTENT, stream=True)
    deltas = [event.delta async for event in stream if event.type == "transcript.text.delta"]
    assert deltas == ["one", " \n two"]


async def test_silence_has_a_stream_too(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.script = [SegmentGroup([], "en", 2.0)]
    stream = await openai_client.audio.transcriptions.create(model="whisper", file=CONTENT, stream=True)
    assert [(event.type, event.text) async for event in stream] == [("transcript.text.done", "")]  # type: ignore[union-attr]


async def test_an_error_before_the_first_text_has_its_status(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.script = [InvalidRequest("this is not audio").at("file")]
    response = await client.post("/v1/audio/transcriptions", files=FILE, data={"stream": "true"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "file"


async def test_an_error_later_is_an_event(gateway: LocalDispatch, openai_client: openai.AsyncOpenAI) -> None:
    gateway.script = [SegmentGroup(SEGMENTS[:1]), EngineError("out of memory")]
    stream = await openai_client.audio.transcriptions.create(model="whisper", file=CONTENT, stream=True)
    with pytest.raises(openai.APIError, match="out of memory"):
        [event async for event in stream]


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_client_that_leaves_ends_the_work(make_app: AppFactory, gateway: LocalDispatch, stream: str) -> None:
    gateway.wait = asyncio.Event()
    gateway.script = [asyncio.Event()]
    async with Served(make_app()) as served, httpx.AsyncClient(base_url=served.url) as client:
        asked = asyncio.create_task(
            client.post("/v1/audio/transcriptions", files=FILE, data={"stream": stream}, timeout=60)
        )
        await until(lambda: gateway.requests)
        asked.cancel()
        await asyncio.wait_for(gateway.ended.wait(), 5)


# ---- uploads ---------------------------------------------------------------------------------------------------------


def mapped(folder: Path) -> list[str]:
    """Files of the folder, deleted ones too, that this process has in its memory or open."""
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line]
    opened = [str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return maps + [name for name in opened if str(folder) in name]


def names(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.mark.parametrize("stream", ["true", "false"])
async def test_a_large_file_goes_by_reference_and_leaves_nothing(
    gateway: LocalDispatch, client: httpx.AsyncClient, uploads: Path, stream: str
) -> None:
    content = np.random.default_rng(1).bytes(3 * MIB + 5)
    gateway.wait = asyncio.Event()
    gateway.script.insert(0, gateway.wait)
    asked = asyncio.create_task(
        client.post("/v1/audio/transcriptions", files={"file": ("a.wav", content)}, data={"stream": stream})
    )
    await until(lambda: gateway.requests)
    assert gateway.large
    assert gateway.request.audio.tobytes() == content
    assert mapped(uploads), "else this tests nothing"
    assert names(uploads) == [], "a name on disk outlives a process that is killed"
    gateway.wait.set()
    assert (await asked).status_code == 200
    gateway.requests.clear()
    assert mapped(uploads) == []


@pytest.mark.parametrize("script", [[], SEGMENTS[:1]], ids=["at first", "later"])
@pytest.mark.parametrize("stream", ["true", "false"])
async def test_an_error_holds_no_file(
    gateway: LocalDispatch, client: httpx.AsyncClient, uploads: Path, stream: str, script: list[Segment]
) -> None:
    """This one lives on, and with it its traceback, as those do that are in a cycle."""
    gateway.result = error = EngineError("out of memory")
    gateway.script = [*([SegmentGroup(script)] if script else []), error]
    files = {"file": ("a.wav", bytes(3 * MIB))}
    response = await client.post("/v1/audio/transcriptions", files=files, data={"stream": stream})
    assert "out of memory" in response.text
    gateway.requests.clear()
    assert mapped(uploads) == []


@pytest.mark.parametrize("size", [MIB - 1, MIB, MIB + 1])
async def test_files_at_the_edge_of_memory(gateway: LocalDispatch, client: httpx.AsyncClient, size: int) -> None:
    content = np.random.default_rng(2).bytes(size)
    await client.post("/v1/audio/transcriptions", files={"file": ("a.wav", content)})
    assert gateway.request.audio.tobytes() == content
    assert gateway.large == (size >= MIB)


async def test_a_file_over_the_limit(make_app: AppFactory, gateway: LocalDispatch, uploads: Path) -> None:
    async with http_client(make_app(audio_limit_mb=2)) as client:
        response = await client.post("/v1/audio/transcriptions", files={"file": ("a.wav", bytes(3 * MIB))})
    assert response.status_code == 413
    assert gateway.requests == []
    assert mapped(uploads) == []


async def test_a_refused_file_leaves_nothing(client: httpx.AsyncClient, uploads: Path) -> None:
    data = {"response_format": "docx"}
    response = await client.post("/v1/audio/transcriptions", files={"file": ("a", bytes(3 * MIB))}, data=data)
    assert response.status_code == 400
    del response
    assert mapped(uploads) == []


# ---- mistakes --------------------------------------------------------------------------------------------------------


def mistakes() -> Iterator[Any]:
    wrong = {
        "format": ({"response_format": "docx"}, "response_format", "'verbose_json'"),
        "hot": ({"temperature": "1.5"}, "temperature", "at most 1"),
        "cold": ({"temperature": "-1"}, "temperature", "at least 0"),
        "tepid": ({"temperature": "warm"}, "temperature", "a number"),
        "granularity": (
            {"timestamp_granularities[]": "phoneme", "response_format": "verbose_json"},
            "timestamp_granularities[0]",
            "'word' or 'segment'",
        ),
        "granularity of json": ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "verbose_json"),
        "stream of subtitles": ({"stream": "true", "response_format": "srt"}, "response_format", "json, text, txt"),
        "stream": ({"stream": "maybe"}, "stream", "a boolean"),
        "model": ({"model": "nope"}, "model", "nope"),
        "model of another task": ({"model": "echo"}, "model", "not for transcription"),
    }
    for name, (data, param, words) in wrong.items():
        yield pytest.param({"files": FILE, "data": data}, param, words, id=name)
    files: dict[str, tuple[Any, str]] = {
        "no file": ({"other": ("a.wav", b"x")}, "There is one named 'other'"),
        "empty file": ({"file": ("a.wav", b"")}, "empty"),
        "two files": ([("file", ("a.wav", b"x")), ("file", ("b.wav", b"y"))], "has 2"),
    }
    for name, (sent, words) in files.items():
        yield pytest.param({"files": sent}, "file", words, id=name)
    yield pytest.param({"json": {"file": "x"}}, "file", "application/json", id="json")
    yield pytest.param({"data": {"model": "whisper"}}, "file", "multipart/form-data", id="urlencoded")
    yield pytest.param({}, "file", "nothing", id="no body")
    yield pytest.param({"files": {"file": (None, "text")}}, "file", "text field", id="a field named file")


@pytest.mark.parametrize(("request_", "param", "words"), list(mistakes()))
async def test_mistakes(
    gateway: LocalDispatch, client: httpx.AsyncClient, request_: dict[str, Any], param: str, words: str
) -> None:
    response = await client.post("/v1/audio/transcriptions", **request_)
    error = response.json()["error"]
    assert response.status_code in (400, 404), error
    assert error["param"] == param
    assert words in error["message"]
    assert gateway.requests == []


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--x\r\n"),
        ("multipart/form-data; boundary=x", b"garbage"),
        pytest.param(
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nab',
            # Starlette leaves closing the unfinished part's file to the garbage collector.
            marks=pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
            id="cut off",
        ),
        ("multipart/form-data; boundary=x", b""),
    ],
)
async def test_broken_forms(client: httpx.AsyncClient, content_type: str, body: bytes) -> None:
    headers = {"Content-Type": content_type}
    response = await client.post("/v1/audio/transcriptions", content=body, headers=headers)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["message"]


async def test_what_the_replica_refuses(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    gateway.result = InvalidRequest("this is not audio").at("file")
    response = await client.post("/v1/audio/transcriptions", files=FILE)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "file"


def test_streamed_formats_are_formats() -> None:
    assert set(STREAMED) < set(WRITERS)


async def test_the_form_is_documented(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"]["/v1/audio/transcriptions"]["post"]
    schema = operation["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert schema["required"] == ["file"]
    assert {"file", "model", "response_format", "timestamp_granularities", "stream"} <= set(schema["properties"])
    assert set(re.findall(r"[a-z-]+/[a-z-]+", str(operation["responses"]["200"]["content"].keys()))) == {
        "application/json",
        "application/x-subrip",
        "text/event-stream",
        "text/plain",
        "text/vtt",
    }
