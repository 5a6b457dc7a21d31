"""llama.cpp as a library: its log, calls that keep the GIL, and builds of it that can't be trusted with AMX."""

import ctypes
import logging
import re
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp

log = logging.getLogger("manta.llama_cpp")

WARNING = 3
"""GGML_LOG_LEVEL_WARN; ERROR is above, CONTINUED higher still."""
CONTINUED = 5


_CACHE_SIZE = re.compile(r"(?:KV|RS|state) buffer size = +([\d.]+) MiB")
"""What it logs of each buffer that keeps sequences' keys and values, or the states of recurrent layers."""


class _Said(threading.local):
    """What llama.cpp logs, in the thread that it says it in."""

    def __init__(self) -> None:
        self.complaints: deque[str] = deque(maxlen=20)
        self.cache_sizes: list[float] = []


_said = _Said()


def _on_log(level: int, text: bytes, _: object) -> None:
    line = text.decode(errors="replace").rstrip()
    if WARNING <= level < CONTINUED:
        _said.complaints.append(line)
    elif found := _CACHE_SIZE.search(line):
        _said.cache_sizes.append(float(found[1]))
    log.debug("%s", line)


log_callback = llama_cpp.llama_log_callback(_on_log)
"""Must live as long as the library."""
llama_cpp.llama_log_set(log_callback, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


@contextmanager
def complaints() -> Iterator[Callable[[], str]]:
    """Inside the block, the yielded function tells what llama.cpp has complained of since its start, in this thread."""
    _said.complaints.clear()
    yield lambda: "; ".join(_said.complaints)


@contextmanager
def cache_bytes() -> Iterator[Callable[[], int]]:
    """Inside the block, the yielded function tells the bytes that llama.cpp has set aside for sequences since the block
    began, in this thread. By its log, to 0.01 MiB: it has no call for that."""
    _said.cache_sizes.clear()
    yield lambda: round(sum(_said.cache_sizes) * 2**20)


def without_release(function: Any) -> Any:
    """The same C function, called without letting go of the GIL.

    For calls of microseconds: after each release the engine's thread may wait up to a switch interval (5 ms) for a
    busy event loop, and there are several calls per token.
    """
    prototype = ctypes.PYFUNCTYPE(function.restype, *function.argtypes)
    return prototype(ctypes.cast(function, ctypes.c_void_p).value or 0)


class AbortFlag:
    """Ends a context's calls from another thread. Must live as long as the context."""

    def __init__(self, context: Any) -> None:
        self._text = ctypes.create_string_buffer(2)
        llama_cpp.llama_set_abort_callback(context, _nonempty, ctypes.addressof(self._text))

    def set(self) -> None:
        """Make a call that runs end soon, and all later ones at once."""
        self._text.value = b"!"


# llama.cpp asks before every operation whether to abort. A Python callback would take the GIL each time; libc's
# strlen answers from C: the length of a string that `set` makes non-empty.
_nonempty = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)


_TILES_FIXED_IN = {11: 5, 12: 4, 13: 3}
"""GCC's major version → the first minor version that compiles AMX tile configurations right; all later ones do."""


@cache
def has_broken_tiles() -> bool:
    """Whether this build of llama.cpp crashes in its first large matrix product on a processor with AMX.

    Older GCCs drop the stores that fill a tile configuration (GCC PR target/114098), Debian 12's 12.2 among them.
    Without its repacked weight buffers (`use_extra_bufts`) llama.cpp stays away from AMX.
    """
    if b"AMX_INT8 = 1" not in llama_cpp.llama_print_system_info():
        return False
    library = Path(llama_cpp.__file__).parent / "lib" / "libggml-cpu.so"
    compiler = re.search(rb"GCC: \([^)]*\) (\d+)\.(\d+)", library.read_bytes()) if library.exists() else None
    if compiler is None:
        return False
    major, minor = int(compiler[1]), int(compiler[2])
    broken = major <= max(_TILES_FIXED_IN) and minor < _TILES_FIXED_IN.get(major, 99)
    if broken:
        log.warning(
            "llama.cpp was compiled by GCC %d.%d, which breaks AMX: it runs without repacked weights", major, minor
        )
    return broken
