"""Decoding what strangers send, and encoding what was painted."""

import io
import struct
import zlib
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from deployments import image_codec
from deployments.errors import InvalidRequest
from deployments.image_codec import decode, encode


def saved(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def noise(width: int = 40, height: int = 24) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that says it is so large."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**5)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("file_format", ["PNG", "GIF", "WEBP", "JPEG"])
def test_the_formats_are_read(file_format: str) -> None:
    source = decode(saved(Image.new("RGB", (40, 24), (200, 100, 50)), file_format), "image")
    assert source.size == (40, 24)
    assert source.alpha is None
    assert np.abs(source.pixels(8, 16).astype(int) - [200, 100, 50]).max() < 5
    assert source.pixels(8, 16).shape == (16, 8, 3)


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK", "LA", "RGBA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    content = saved(Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode), "JPEG" if mode == "CMYK" else "PNG")
    source = decode(content, "image")
    assert source.pixels(8, 8).min() >= 254
    assert (source.alpha is not None) == (mode in ("LA", "RGBA"))


def test_the_first_frame_of_a_moving_picture_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    source = decode(saved(frames[0], "GIF", save_all=True, append_images=frames[1:]), "image")
    assert source.pixels(8, 8)[0, 0].tolist() == [255, 0, 0]


def test_photographs_are_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera lay on its side
    assert decode(saved(Image.new("RGB", (40, 24)), "JPEG", exif=exif), "image").size == (24, 40)


@pytest.mark.parametrize("size", [(50_000, 50_000), (10_000, 6_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidRequest, match=r"at most 50,000,000 pixels|broken") as refused:
        decode(bomb(*size), "file")
    assert refused.value.param == "file"


def test_a_bomb_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: Any) -> None:
        raise AssertionError("its pixels were decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(InvalidRequest, match="at most"):
        decode(bomb(10_000, 6_000), "file")


def test_the_limit_itself_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_codec, "MAX_PIXELS", 40 * 24)
    assert decode(saved(Image.new("RGB", (40, 24)), "PNG"), "image").size == (40, 24)
    with pytest.raises(InvalidRequest, match="40 x 25 pixels"):
        decode(saved(Image.new("RGB", (40, 25)), "PNG"), "image")


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.9])
def test_broken_images_are_the_clients_mistake(file_format: str, part: float) -> None:
    content = saved(Image.fromarray(noise(200, 200)), file_format)
    with pytest.raises(InvalidRequest) as refused:
        decode(content[: int(len(content) * part)], "image")
    assert refused.value.param == "image"


@pytest.mark.parametrize("content", [b"", b"hello", b"%PDF-1.7", b"\x89PNG\r\n\x1a\n", bytes(1000)])
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode(content, "image")


@pytest.mark.parametrize("file_format", ["BMP", "TIFF", "ICO", "PPM"])
def test_formats_that_nobody_needs_are_refused(file_format: str) -> None:
    with pytest.raises(InvalidRequest, match="PNG, JPEG, WEBP, GIF"):
        decode(saved(Image.new("RGB", (16, 16)), file_format), "image")


def test_png_is_lossless_and_repeatable() -> None:
    pixels = noise()
    content = encode(pixels, "png")
    assert content == encode(pixels, "png", 10)
    assert np.array_equal(decode(content, "image").pixels(40, 24), pixels)


@pytest.mark.parametrize("file_format", ["webp", "jpeg"])
def test_quality_is_of_the_lossy_formats(file_format: Literal["webp", "jpeg"]) -> None:
    small, large = (encode(noise(), file_format, quality) for quality in (5, 95))
    assert len(small) < len(large) <= len(encode(noise(), file_format))
    assert encode(noise(), file_format) == encode(noise(), file_format, 100)
