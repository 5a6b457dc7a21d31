"""llama.cpp as a library: its log, calls that keep the GIL, and processors it must be protected from."""

import ctypes
import logging
import subprocess
import sys
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

_complaints: deque[str] = deque(maxlen=20)
"""llama.cpp's last warnings and errors."""


def _on_log(level: int, text: bytes, _: object) -> None:
    line = text.decode(errors="replace").rstrip()
    if WARNING <= level < CONTINUED:
        _complaints.append(line)
    log.debug("%s", line)


_log_callback = llama_cpp.llama_log_callback(_on_log)  # must live as long as the library
llama_cpp.llama_log_set(_log_callback, ctypes.c_void_p(0))
llama_cpp.llama_backend_init()


@contextmanager
def complaints() -> Iterator[Callable[[], str]]:
    """Inside the block, the yielded function tells what llama.cpp has complained of since its start."""
    _complaints.clear()
    yield lambda: "; ".join(_complaints)


def without_release(function: Any) -> Any:
    """The same C function, called without letting go of the GIL.

    For calls of microseconds: after each release the engine's thread may wait up to a switch interval (5 ms) for a
    busy event loop, and there are several calls per token.
    """
    prototype = ctypes.PYFUNCTYPE(function.restype, *function.argtypes)
    return prototype(ctypes.cast(function, ctypes.c_void_p).value or 0)


_TILE_PROBE = """
import ctypes, mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex("c4e2784907 c4e27849c0 c3"))  # ldtilecfg [rdi]; tilerelease; ret
ctypes.CDLL(None).syscall(158, 0x1023, 18)  # arch_prctl(ARCH_REQ_XCOMP_PERM, XTILEDATA)
entry = ctypes.addressof(ctypes.c_char.from_buffer(page))
ctypes.CFUNCTYPE(None, ctypes.c_void_p)(entry)(ctypes.addressof(ctypes.create_string_buffer(64)))
"""


@cache
def has_broken_tiles() -> bool:
    """Whether the processor claims AMX but faults on it, as under some hypervisors. Tried out in a child process.

    llama.cpp believes the claim and crashes in its first large matrix product; without its repacked weight buffers
    (`use_extra_bufts`) it stays away from AMX.
    """
    processors = Path("/proc/cpuinfo")
    if not processors.exists() or "amx_tile" not in processors.read_text():
        return False
    probe = subprocess.run([sys.executable, "-S", "-E", "-c", _TILE_PROBE], capture_output=True, check=False)
    if probe.returncode != 0:
        log.warning("the processor claims AMX but faults on it: llama.cpp runs without repacked weights")
    return probe.returncode != 0
