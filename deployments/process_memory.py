"""Memory that this process and its children hold, and that of the machine's GPUs."""

import importlib
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any

import psutil


def held() -> dict[str, int]:
    """Kind → bytes: `rss`, and `gpu` where there is NVIDIA's driver and `pynvml`. Blocking, some milliseconds.

    Pages that processes share count once in each. Inside a container the driver may know the processes by other ids:
    their `gpu` is 0 then.
    """
    resident = _resident()
    memory = {"rss": sum(resident.values())}
    if nvml := _nvml():
        memory["gpu"] = _on_gpus(nvml, resident)
    return memory


def gpus() -> list[tuple[int, int]]:
    """Of each of the machine's GPUs, bytes that anybody holds and bytes in all; as `held`, of NVIDIA's alone."""
    nvml = _nvml()
    if nvml is None:
        return []
    handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    memories = map(nvml.nvmlDeviceGetMemoryInfo, handles)
    return [(memory.used, memory.total) for memory in memories]


def _resident() -> dict[int, int]:
    """Process id → bytes in the machine's memory."""
    own = psutil.Process()
    resident: dict[int, int] = {}
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it ended while we looked
            resident[process.pid] = process.memory_info().rss
    return resident


def _on_gpus(nvml: Any, pids: Iterable[int]) -> int:
    """Bytes that the processes hold on all GPUs."""
    handles = map(nvml.nvmlDeviceGetHandleByIndex, range(nvml.nvmlDeviceGetCount()))
    return sum(
        process.usedGpuMemory or 0  # None: the driver doesn't say
        for handle in handles
        for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        if process.pid in set(pids)
    )


@cache
def _nvml() -> Any | None:
    """NVIDIA's management library, ready for use. None: it is not there (package nvidia-ml-py), or no driver is."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    return nvml
