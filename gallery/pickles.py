"""Pickled weights: formats that run code of their author's when they are loaded, and how they are told from others."""

import struct
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path, PurePosixPath

from deployments.errors import ConfigInvalid
from gallery.sources.base import Remote

SUFFIXES = frozenset(
    {".bin", ".pt", ".pth", ".pt2", ".th", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".nemo", ".mar"}
)
"""Files that some loader unpickles. Not `.npy` and `.npz`: numpy has not unpickled unasked since 1.16."""

HEAD = 128
"""Bytes at the start of a file that tell its format."""

_GGML = (b"lmgg", b"fmgg", b"tjgg", b"algg")
"""Magic numbers of llama.cpp's older formats, of which whisper.cpp's `ggml-….bin` are one; none is a pickle opcode."""

_FEW_TENSORS = 0x2800
"""The second byte of a GGUF file's count is then below every pickle opcode: no file is both."""


def is_suspect(name: str) -> bool:
    """Whether a file of this name may be a pickle."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def is_harmless(head: bytes) -> bool:
    """Whether a file that begins like this is of a known format that is data alone."""
    return any(known(head) for known in _FORMATS)


async def read_head(remote: Remote) -> bytes:
    """The file's first bytes, HEAD of them at most."""
    end = HEAD if remote.size is None else min(HEAD, remote.size)
    head = b""
    if end:
        async with aclosing(remote.read(0, end)) as blocks:
            async for block in blocks:
                head += block
                if len(head) >= end:
                    break
    return head[:HEAD]


def require_harmless(name: str, head: bytes) -> None:
    """Raise ConfigInvalid for a file that may be a pickle by its name and is nothing else by its first bytes."""
    if is_suspect(name) and not is_harmless(head):
        raise ConfigInvalid(
            f"{name}: may be a pickle, which runs its author's code when it is loaded; look for the model as "
            "safetensors or GGUF, or set allow_pickles on a gallery whose authors you trust"
        )


def require_harmless_file(name: str, path: Path) -> None:
    """The same of a file that is there. Blocks."""
    if is_suspect(name):
        with path.open("rb") as file:
            require_harmless(name, file.read(HEAD))


def _is_gguf(head: bytes) -> bool:
    if len(head) < 24 or not head.startswith(b"GGUF"):
        return False
    version, tensors, _ = struct.unpack_from("<IQQ", head, 4)
    return version in (2, 3) and tensors < _FEW_TENSORS


def _is_ggml(head: bytes) -> bool:
    return head.startswith(_GGML)


def _is_ctranslate2(head: bytes) -> bool:
    """`model.bin` of CTranslate2: a version, then the name of the architecture with its length (model_spec.py).

    A version below 0x28 is no pickle opcode.
    """
    if len(head) < 8:
        return False
    version, length = struct.unpack_from("<IH", head)
    name = head[6 : 6 + length]
    return 0 < version < 0x28 and 1 < length < 64 and name[-1:] == b"\0" and name[:-1].isalnum()


_FORMATS: tuple[Callable[[bytes], bool], ...] = (_is_gguf, _is_ggml, _is_ctranslate2)
