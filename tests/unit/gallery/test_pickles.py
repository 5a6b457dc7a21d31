"""Telling pickles from formats that are data alone."""

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path

import pytest

from deployments.errors import ConfigInvalid
from gallery.pickles import SUFFIXES, is_harmless, is_suspect, read_head, require_harmless, require_harmless_file

GGUF = b"GGUF" + struct.pack("<IQQ", 3, 290, 30)
CTRANSLATE2 = struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<I", 3)


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a/b.PT", "x.pth", "x.tar.pth", "m.ckpt", "m.pkl", "m.joblib"])
def test_names_of_pickles(name: str) -> None:
    assert is_suspect(name)


@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf", "m.onnx", "config.json", "bin", "m.bin.txt", "m.npy"])
def test_names_of_others(name: str) -> None:
    assert not is_suspect(name)


@pytest.mark.parametrize("head", [GGUF, b"lmgg\1\0\0\0", b"tjgg\1\0\0\0", CTRANSLATE2])
def test_known_formats_are_harmless(head: bytes) -> None:
    assert is_harmless(head)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_are_not(protocol: int) -> None:
    assert not is_harmless(pickle.dumps({"weights": [1.0] * 100}, protocol))


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"GGUF",
        torch_zip(),
        b"GGUF1234N." + bytes(30),  # a pickle: a float, then None
        b"GGUF" + struct.pack("<IQQ", 3, ord("N") << 8, 0),
        struct.pack("<IH", 6, 40000) + b"x" * 100,
        struct.pack("<IH", 0x4E28, 5) + b"Name\0",
    ],
)
def test_what_only_looks_like_one_is_not(head: bytes) -> None:
    assert not is_harmless(head)


@pytest.mark.parametrize(
    "head", [GGUF, b"lmgg\1\0\0\0", b"tjgg\1\0\0\0", b"fmgg\1\0\0\0", b"algg\1\0\0\0", CTRANSLATE2]
)
def test_no_harmless_file_is_a_pickle_too(head: bytes) -> None:
    """Whatever follows the head, unpickling it fails before an opcode that could run code."""
    opcodes = []
    with pytest.raises((ValueError, pickle.UnpicklingError, IndexError)):  # noqa: PT012
        for opcode, _, _ in pickletools.genops(head + b"N" * 100 + b"."):
            opcodes.append(opcode.name)
        pickle.loads(head + b"N" * 100 + b".")
    assert {"GLOBAL", "STACK_GLOBAL", "REDUCE", "INST", "OBJ", "NEWOBJ", "BUILD"}.isdisjoint(opcodes)


def test_the_second_byte_of_a_tensor_count_is_no_opcode() -> None:
    """What `_FEW_TENSORS` rests on."""
    assert min(ord(opcode.code) for opcode in pickletools.opcodes) >= 0x28


def test_the_message_says_what_to_do() -> None:
    with pytest.raises(ConfigInvalid, match=r"model\.bin: may be a pickle.*allow_pickles"):
        require_harmless("model.bin", pickle.dumps([]))
    require_harmless("model.bin", CTRANSLATE2)
    require_harmless("model.safetensors", b"anything")


def test_a_file_on_the_disk(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(pickle.dumps([]))
    with pytest.raises(ConfigInvalid):
        require_harmless_file("x.pt", tmp_path / "x")
    require_harmless_file("x.txt", tmp_path / "x")


@pytest.mark.parametrize(("size", "known"), [(0, True), (5, True), (1000, True), (1000, False)])
async def test_the_head_of_a_remote_is_read_and_no_more(size: int, known: bool) -> None:
    class Remote:
        version, sha256, ranges = "", "", False
        asked = 0
        closed = False

        def __init__(self) -> None:
            self.size = size if known else None

        async def read(self, start: int, end: int | None):
            try:
                for i in range(start, size, 100):
                    self.asked += 100
                    yield bytes(min(100, size - i))
            finally:
                self.closed = True

    remote = Remote()
    assert await read_head(remote) == bytes(min(size, 128))
    assert remote.asked <= 200
    assert remote.closed or not size


def test_suffixes_are_lower_case() -> None:
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in SUFFIXES)
