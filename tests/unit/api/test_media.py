"""Images that a request holds or names: the forms that are taken, and what is refused without a model."""

import subprocess
import sys
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

import pytest

from api import media
from api.gallery_settings import GalleryBlock
from api.media import check_image, load_audio, load_image
from api.settings import Settings
from deployments.errors import InvalidRequest
from tests.file_server import FileServer

HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
PNG = HEADER + b"\x00\x00\x00\x01\x00\x00\x00\x01" + bytes(range(250, 256)) * 3 + b"?"
JPEG = b"\xff\xd8\xff\xc0\x00\x0b\x08\x00\x01\x00\x01"
WEBP = b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + bytes(10)
GIF = b"GIF89a\x01\x00\x01\x00"
MIB = 2**20

SETTINGS = Settings(image_limit_mb=1, gallery=GalleryBlock(download_allow=("127.0.0.1",), download_stall_timeout=2))


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.mark.parametrize("image", [PNG, JPEG, WEBP, GIF])
def test_what_begins_as_an_image_is_taken(image: bytes) -> None:
    assert check_image(image, "file") is image


@pytest.mark.parametrize("content", [b"", b"x", b"<html>", b"RIFF\x00\x00\x00\x00WAVE", PNG[1:], b"BM\x00\x00", HEADER])
def test_what_is_no_image_is_not(content: bytes) -> None:
    with pytest.raises(InvalidRequest, match="'file'") as error:
        check_image(content, "file")
    assert error.value.param == "file"


def test_an_image_that_says_it_is_gigantic() -> None:
    with pytest.raises(InvalidRequest, match="65536 x 65536 pixels") as error:
        check_image(HEADER + b"\x00\x01\x00\x00" * 2, "file")
    assert error.value.param == "file"


@pytest.mark.parametrize(
    "source",
    [
        b64encode(PNG).decode(),
        b64encode(PNG).decode().rstrip("="),
        urlsafe_b64encode(PNG).decode(),
        "\n".join([b64encode(PNG).decode()[:8], b64encode(PNG).decode()[8:]]),
        f"data:image/png;base64,{b64encode(PNG).decode()}",
        f"DATA:;base64,{b64encode(PNG).decode()}",
        f"data:image/png,{quote_from_bytes(PNG)}",
    ],
)
async def test_forms(source: str) -> None:
    assert await load_image(source, "file", SETTINGS) == PNG


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("no base64!", "none"),
        ("a", "none"),
        ("äöü", "none"),
        ("file:///etc/passwd", "none"),
        ("ftp://example.org/a.png", "none"),
        ("data:image/png;base64", "comma"),
        ("data:image/png;base64,%%%", "none"),
        (b64encode(b"hello").decode(), "not an image"),
        ("data:,", "empty"),
        ("http://", "public address"),
        ("http://[::1", "public address"),
    ],
)
async def test_what_is_refused(source: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as error:
        await load_image(source, "file", SETTINGS)
    assert error.value.param == "file"


async def test_sounds() -> None:
    assert await load_audio(b64encode(b"RIFF").decode(), "file", SETTINGS) == b"RIFF"
    assert await load_audio("data:audio/wav;base64,UklGRg==", "file", SETTINGS) == b"RIFF"
    with pytest.raises(InvalidRequest, match="empty"):
        await load_audio("", "file", SETTINGS)
    with pytest.raises(InvalidRequest, match="the audio could not be fetched"):
        await load_audio("http://127.0.0.1:9/a.wav", "file", SETTINGS)


async def test_much_base64_is_decoded_all_the_same() -> None:
    content = PNG + bytes(2 * MIB)
    assert await load_image(b64encode(content).decode(), "file", SETTINGS) == content
    with pytest.raises(InvalidRequest, match="none"):
        await load_image("%" * 2 * MIB, "file", SETTINGS)


async def test_by_url(server: FileServer) -> None:
    url = server.add("/a.png", PNG)
    assert await load_image(url, "file", SETTINGS) == PNG
    server.add("/moved", redirect=url)
    assert await load_image(f"{server.url}/moved", "file", SETTINGS) == PNG
    assert await load_image(url.replace("http", "HTTP", 1), "file", SETTINGS) == PNG


async def test_addresses_that_are_not_public_are_refused_and_not_told(server: FileServer) -> None:
    url = server.add("/a.png", PNG)
    for address in (url, url.replace("127.0.0.1", "localhost"), "http://169.254.169.254/latest/meta-data"):
        with pytest.raises(InvalidRequest, match="download_allow") as error:
            await load_image(address, "file", Settings())
        assert "127.0.0.1" not in error.value.message
    assert server.requests == []


async def test_a_redirect_to_an_address_that_is_not_public(server: FileServer) -> None:
    server.add("/moved", redirect="http://127.0.0.2:9/a.png")
    with pytest.raises(InvalidRequest, match="download_allow"):
        await load_image(f"{server.url}/moved", "file", SETTINGS)


async def test_what_can_t_be_fetched_is_the_client_s_mistake(server: FileServer) -> None:
    server.add("/gone", status=404)
    server.add("/large", size=2 * MIB)
    server.add("/page", b"<html>")
    for path, words in {"/gone": "404", "/large": "more than 1048576 bytes", "/page": "not an image"}.items():
        with pytest.raises(InvalidRequest, match=words) as error:
            await load_image(server.url + path, "file", SETTINGS)
        assert (error.value.status, error.value.param) == (400, "file")
    with pytest.raises(InvalidRequest, match="no connection"):
        await load_image("http://127.0.0.1:9/a.png", "file", SETTINGS)


async def test_a_server_that_is_slow_is_not_waited_for(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media, "DOWNLOAD_S", 0.2)
    url = server.add("/slow", size=MIB // 2, rate=1000)
    with pytest.raises(InvalidRequest, match="longer than"):
        await load_image(url, "file", SETTINGS)


def test_importing_it_brings_nothing_that_downloads() -> None:
    code = "import sys, api.media; print([n for n in ('aiohttp', 'boto3', 'gallery.network') if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
