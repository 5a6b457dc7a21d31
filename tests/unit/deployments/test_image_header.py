"""Sizes from image headers, against what Pillow writes."""

import time
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from deployments.image_header import SIGNATURES, image_format, image_size

SIZE = (321, 123)
SAVED: dict[str, dict[str, Any]] = {
    "png": {"format": "PNG"},
    "gif": {"format": "GIF"},
    "jpeg": {"format": "JPEG"},
    "jpeg, progressive, with Exif and a comment": {
        "format": "JPEG",
        "progressive": True,
        "exif": b"Exif\x00\x00" + b"\xff\xc0" * 99,
        "comment": b"x" * 999,
    },
    "webp": {"format": "WEBP"},
    "webp, lossless": {"format": "WEBP", "lossless": True},
    "webp, extended": {"format": "WEBP", "icc_profile": b"colours"},
}


def saved(how: str) -> bytes:
    file = BytesIO()
    Image.radial_gradient("L").resize(SIZE).convert("RGB").save(file, **SAVED[how])
    return file.getvalue()


@pytest.mark.parametrize("how", SAVED)
def test_sizes(how: str) -> None:
    content = saved(how)
    assert image_format(content) == how.partition(",")[0]
    assert image_size(content) == SIZE


def test_every_format_has_a_size() -> None:
    assert {how.partition(",")[0] for how in SAVED} == set(SIGNATURES)


def test_webp_has_three_kinds() -> None:
    assert {saved(how)[12:16] for how in SAVED if "webp" in how} == {b"VP8 ", b"VP8L", b"VP8X"}


@pytest.mark.parametrize("how", SAVED)
def test_a_header_cut_off_anywhere(how: str) -> None:
    content = saved(how)
    for length in range(min(len(content), 2000)):
        assert image_size(content[:length]) in (None, SIZE)


def test_fill_bytes_of_jpeg() -> None:
    content = saved("jpeg")
    assert image_size(content[:2] + b"\xff" * 5 + content[2:]) == SIZE


@pytest.mark.parametrize("content", [b"", b"BM", b"\xff\xd8\xff\xd9", b"\xff\xd8\xff" + b"\xff" * 99, b"GIF89a"])
def test_what_has_none(content: bytes) -> None:
    assert image_size(content) is None


@pytest.mark.parametrize("filler", [b"\xff", b"\xff\xe0\x00\x02"])
def test_a_jpeg_of_nothing_but_filler_is_given_up(filler: bytes) -> None:
    content = b"\xff\xd8\xff\xe0\x00\x02" + filler * 3_000_000
    started = time.process_time()
    assert image_size(content) is None
    assert time.process_time() - started < 0.2
