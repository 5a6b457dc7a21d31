"""What the first bytes of an image say, without decoding it. Standard library only."""

import struct

MAX_PIXELS = 50_000_000
"""Of an image that comes in: 150 MB as RGB. Photographs of phones have as many."""

SIGNATURES: dict[str, tuple[tuple[int, bytes], ...]] = {
    "png": ((0, b"\x89PNG\r\n\x1a\n"),),
    "jpeg": ((0, b"\xff\xd8\xff"),),
    "webp": ((0, b"RIFF"), (8, b"WEBP")),
    "gif": ((0, b"GIF8"),),
}
"""Format → the bytes, and where they stand, that all its files have."""

_MOST_SEGMENTS = 4096
"""Of a JPEG before its frame; profiles and thumbnails take some hundred. A stranger's may have millions."""
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""JPEG markers of a segment that has the size (ITU-T T.81, table B.1)."""


def image_format(content: bytes) -> str | None:
    """The format that the content begins as; None: none of those in SIGNATURES."""
    for name, marks in SIGNATURES.items():
        if all(content.startswith(mark, place) for place, mark in marks):
            return name
    return None


def image_size(content: bytes) -> tuple[int, int] | None:
    """Width and height as the header says them; None where it is broken, cut off, or of another format."""
    try:
        match image_format(content):
            case "png" if content[12:16] == b"IHDR":
                return _pair(">II", content, 16)
            case "gif":
                return _pair("<HH", content, 6)
            case "webp":
                return _webp_size(content)
            case "jpeg":
                return _jpeg_size(content)
    except (struct.error, IndexError):  # the content ends inside its header
        return None
    return None


def _webp_size(content: bytes) -> tuple[int, int] | None:
    """Of the first chunk: lossy, lossless or extended (RFC 9649, 2.5 to 2.7)."""
    match content[12:16]:
        case b"VP8 " if content[23:26] == b"\x9d\x01\x2a":
            width, height = _pair("<HH", content, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L" if content[20] == 0x2F:
            (bits,) = struct.unpack_from("<I", content, 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X" if len(content) >= 30:
            return int.from_bytes(content[24:27], "little") + 1, int.from_bytes(content[27:30], "little") + 1
    return None


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    """From segment to segment, up to the one that begins the frame."""
    place = 2
    for _ in range(_MOST_SEGMENTS):
        if content[place] != 0xFF:
            return None
        marker = content[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
        elif marker in _START_OF_FRAME:
            height, width = _pair(">HH", content, place + 5)
            return width, height
        else:
            (length,) = struct.unpack_from(">H", content, place + 2)
            place += 2 + length
    return None


def _pair(form: str, content: bytes, place: int) -> tuple[int, int]:
    first, second = struct.unpack_from(form, content, place)
    return first, second
