"""Pictures and sounds in messages: the forms they come in, and what is refused without a model."""

import asyncio
import struct
import zlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from api.content_parts import MOST_MEDIA
from api.gallery_settings import GalleryBlock
from api.gateway import LARGE
from deployments.backends.base import Media
from tests.file_server import FileServer
from tests.unit.api.test_chat import post
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_dispatch import LocalDispatch

WAV = b"RIFF\x24\x00\x00\x00WAVEfmt "


def png(width: int = 2, height: int = 2, *, padding: int = 0) -> bytes:
    """Header, and a chunk that nobody reads; no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"teXt", bytes(padding))


def data_url(content: bytes, media_type: str = "image/png") -> str:
    return f"data:{media_type};base64,{b64encode(content).decode()}"


def image_part(source: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": source, "detail": "low"}}


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def user(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


async def test_parts_and_media_are_apart(gateway: LocalDispatch, client: httpx.AsyncClient) -> None:
    small, large = png(1, 1), png(3, 3)
    audio = {"type": "input_audio", "input_audio": {"data": b64encode(WAV).decode(), "format": "wav"}}
    messages = [
        {"role": "system", "content": "look"},
        *user(text_part("What is "), image_part(data_url(small)), text_part("?")),
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I won't say."}]},
        *user(audio, {"type": "image_url", "image_url": b64encode(large).decode()}),
        *user({"type": "audio_url", "audio_url": {"url": data_url(WAV, "audio/wav")}}),
    ]
    response = await post(client, messages=messages)
    assert response.status_code == 200, response.text
    request = gateway.request
    assert [message["content"] for message in request.messages] == [
        "look",
        [text_part("What is "), {"type": "image", "index": 0}, text_part("?")],
        [text_part("I won't say.")],
        [{"type": "audio", "index": 1}, {"type": "image", "index": 2}],
        [{"type": "audio", "index": 3}],
    ]
    assert request.media == [Media("image", small), Media("audio", WAV), Media("image", large), Media("audio", WAV)]
    assert not gateway.large


@pytest.mark.parametrize("stream", [False, True])
async def test_large_media_cross_by_reference(gateway: LocalDispatch, client: httpx.AsyncClient, stream: bool) -> None:
    picture = image_part(data_url(png(padding=LARGE // 2)))
    assert (await post(client, messages=user(picture), stream=stream)).status_code == 200
    assert not gateway.large
    assert (await post(client, messages=user(picture, picture), stream=stream)).status_code == 200
    assert gateway.large


async def test_by_url_at_the_same_time(gateway: LocalDispatch, make_app: AppFactory, server: FileServer) -> None:
    pictures = [png(width, 1) for width in range(1, 5)]
    urls = [server.add(f"/{place}.png", picture, rate=200) for place, picture in enumerate(pictures)]
    app = make_app(gallery=GalleryBlock(download_allow=("127.0.0.1",)))
    most = 0
    async with http_client(app) as client:
        answer = asyncio.create_task(post(client, messages=user(*map(image_part, urls))))
        while not answer.done():
            most = max(most, sum(server.open.values()))
            await asyncio.sleep(0.01)
        assert (await answer).status_code == 200
    assert [media.data for media in gateway.request.media] == pictures
    assert most > 1


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("hi", "an object, but got a string"),
        ({"type": "smell"}, "'type' of text, refusal, image_url, input_audio, audio_url, not 'smell'"),
        ({"type": ["text"]}, "not ['text']"),
        ({}, "not None"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "not 'video_url'"),
        ({"type": "file", "file": {"file_id": "x"}}, "not 'file'"),
        ({"type": "image", "index": 0}, "not 'image'"),
        ({"type": "text"}, "expected a string as 'text', but got null"),
        ({"type": "image_url"}, "expected a string as 'image_url', but got null"),
        ({"type": "image_url", "image_url": {"link": "x"}}, "a string as 'image_url.url', but got null"),
        ({"type": "input_audio", "input_audio": {"format": "wav"}}, "a string as 'input_audio.data', but got null"),
        ({"type": "input_audio", "input_audio": {"data": ""}}, "empty"),
        ({"type": "input_audio", "input_audio": {"data": "???"}}, "base64"),
        (image_part("data:image/png;base64,%%%"), "base64"),
        (image_part(data_url(b"<html>")), "not an image"),
        (image_part(data_url(png(50_000, 50_000))), "50000 x 50000 pixels"),
        (image_part("http://127.0.0.1:9/a.png"), "download_allow"),
    ],
)
async def test_mistakes_are_named(gateway: LocalDispatch, client: httpx.AsyncClient, part: Any, words: str) -> None:
    messages = [{"role": "user", "content": "hi"}, *user(text_part("look"), part)]
    response = await post(client, messages=messages)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (
        400,
        "invalid_request_error",
        "messages[1].content[1]",
    )
    assert words in error["message"]
    assert gateway.requests == []


async def test_limits(gateway: LocalDispatch, make_app: AppFactory, server: FileServer) -> None:
    """Of the number of media, of one file, and of all files together."""
    app = make_app(image_limit_mb=1, gallery=GalleryBlock(download_allow=("127.0.0.1",)))
    async with http_client(app) as client:
        tiny = image_part(data_url(png()))
        assert (await post(client, messages=user(*[tiny] * MOST_MEDIA))).status_code == 200
        error = (await post(client, messages=user(*[tiny] * (MOST_MEDIA + 1)))).json()["error"]
        assert (error["param"], "at most 16" in error["message"]) == (f"messages[0].content[{MOST_MEDIA}]", True)
        url = server.add("/large.png", png(padding=2**20))
        error = (await post(client, messages=user(image_part(url)))).json()["error"]
        assert (error["param"], "more than 1048576 bytes" in error["message"]) == ("messages[0].content[0]", True)
        half = image_part(data_url(png(padding=600_000)))
        error = (await post(client, messages=user(half, half))).json()["error"]
        assert "1048576 bytes in all" in error["message"]
        assert error["param"].startswith("messages[0].content[")
    assert len(gateway.requests) == 1


async def test_a_client_who_leaves_ends_the_download(
    gateway: LocalDispatch, make_app: AppFactory, server: FileServer
) -> None:
    url = server.add("/slow.png", png(padding=100_000), rate=1000)
    app = make_app(gallery=GalleryBlock(download_allow=("127.0.0.1",)))
    async with http_client(app) as client:
        answer = asyncio.create_task(post(client, messages=user(image_part(url))))
        async with asyncio.timeout(5):
            while not server.open["/slow.png"]:
                await asyncio.sleep(0.01)
            answer.cancel()
            await asyncio.gather(answer, return_exceptions=True)
    assert gateway.requests == []
