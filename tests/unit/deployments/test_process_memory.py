"""Memory of a process and its children."""

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from deployments import process_memory

MIB = 2**20


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "_nvml", lambda: None)


def test_children_count() -> None:
    alone = process_memory.held()
    assert alone["rss"] >= psutil.Process().memory_info().rss // 2
    assert "gpu" not in alone
    hold = "held = b'x' * (64 << 20); print(len(held), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout and child.stdout.readline()
        together = process_memory.held()["rss"]
    assert together - alone["rss"] > 60 * MIB


class PaperNvml:
    """Two GPUs; the second one's driver doesn't say how much a process holds."""

    class NVMLError(Exception):
        pass

    def __init__(self, pid: int) -> None:
        def process(pid: int, used: int | None) -> Any:
            return SimpleNamespace(pid=pid, usedGpuMemory=used)

        self.gpus = [[process(pid, 3 * MIB), process(1, 5 * MIB)], [process(pid, None)]]

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.gpus:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:  # noqa: N802
        return self.gpus[handle]


def test_memory_of_gpus_is_that_of_ones_own_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = PaperNvml(psutil.Process().pid)
    monkeypatch.setattr(process_memory, "_nvml", lambda: nvml)
    assert process_memory.held()["gpu"] == 3 * MIB


def test_a_machine_without_nvidia_says_nothing_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    without = PaperNvml(0)
    without.gpus = []
    for module in (None, without):  # not installed; installed, and no driver
        process_memory._nvml.cache_clear()
        monkeypatch.setitem(sys.modules, "pynvml", module)  # type: ignore[arg-type]
        assert "gpu" not in process_memory.held()
    monkeypatch.setitem(sys.modules, "pynvml", PaperNvml(0))  # type: ignore[arg-type]
    process_memory._nvml.cache_clear()
    assert process_memory.held()["gpu"] == 0
    process_memory._nvml.cache_clear()


def test_a_process_that_ends_meanwhile_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        gone = psutil.Process(ended.pid)
    monkeypatch.setattr(psutil.Process, "children", lambda self, recursive: [gone])
    assert process_memory.held()["rss"] > 0
