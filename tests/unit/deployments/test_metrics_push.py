"""How processes tell what they have counted, and what they tell of themselves."""

import os
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from deployments import metrics_push, process_memory, process_metrics
from deployments.metrics import COLD_STARTS, INSTANCE, REGISTRY
from deployments.metrics_push import MetricsPush
from deployments.process_metrics import ProcessMetrics
from deployments.samples import Snapshot
from tests.unit.waiting import until

STARTS = "manta_cold_starts_total", (("model", "pushed"),)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PUSH_S", "SEND_S"):
        monkeypatch.setattr(metrics_push, name, 0.01 if name == "PUSH_S" else 0.05)


async def test_what_changes_is_told_and_the_last_of_it_at_the_end() -> None:
    told: list[Snapshot] = []
    looks: list[None] = []

    async def send(snapshot: Snapshot) -> None:
        told.append(snapshot)

    push = MetricsPush(send, lambda: looks.append(None), process="gallery")
    await until(lambda: told and "manta_process_cpu_seconds_total" in {name for name, _ in told[-1].samples})
    COLD_STARTS.labels("pushed").inc()
    await until(lambda: told[-1].samples.get(STARTS) == 1)
    count, looked = len(told), len(looks)
    await until(lambda: len(looks) > looked + 3)
    assert len(told) == count, "nothing new, nothing told"
    COLD_STARTS.labels("pushed").inc()
    await push.stop()
    assert told[-1].samples[STARTS] == 2
    assert not any(name == "manta_process_resident_memory_bytes" for name, _ in told[-1].samples)


async def test_a_controller_that_is_away_is_told_later() -> None:
    told: list[Snapshot] = []
    failures = ["dead", "hung"]

    async def send(snapshot: Snapshot) -> None:
        if failures:
            match failures.pop():
                case "dead":
                    raise RuntimeError("the controller is away")
                case _:
                    await until(lambda: False)
        told.append(snapshot)

    push = MetricsPush(send, COLD_STARTS.labels("pushed").inc, process="gallery")
    await until(lambda: told)
    failures.append("dead")
    await push.stop()


def test_a_process_tells_its_memory_and_cpu_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_memory, "_nvml", lambda: None)
    spent = [2.0, 1.5, 4.0]  # a child died unseen in between
    monkeypatch.setattr(process_metrics, "_cpu_seconds", lambda: spent.pop(0))
    metrics = ProcessMetrics("tested", "n-1")
    for seconds in (2.0, 2.0, 4.0):
        metrics.observe()
        assert REGISTRY.get_sample_value("manta_process_cpu_seconds_total", {"process": "tested"}) == seconds
    labels = {"process": "tested", "instance": INSTANCE}
    assert REGISTRY.get_sample_value("manta_process_resident_memory_bytes", labels) > 1 << 20  # type: ignore[operator]


def test_cpu_time_is_that_of_the_system() -> None:
    before = psutil.Process(os.getpid()).cpu_times()
    assert process_metrics._cpu_seconds() >= before.user + before.system


def test_gpus_are_told_by_processes_that_know_their_node(monkeypatch: pytest.MonkeyPatch) -> None:
    memories = [SimpleNamespace(used=3, total=80), SimpleNamespace(used=0, total=40)]
    nvml: Any = SimpleNamespace(
        nvmlDeviceGetCount=lambda: len(memories),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: memories[handle],
        nvmlDeviceGetComputeRunningProcesses=lambda handle: [],
    )
    monkeypatch.setattr(process_memory, "_nvml", lambda: nvml)
    ProcessMetrics("tested", "").observe()
    assert REGISTRY.get_sample_value("manta_gpu_memory_bytes", {"node": "", "gpu": "0"}) is None
    ProcessMetrics("tested", "n-gpu").observe()
    of_gpus = {
        (sample.name, sample.labels["gpu"]): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.labels.get("node") == "n-gpu"
    }
    assert of_gpus == {
        ("manta_gpu_memory_used_bytes", "0"): 3,
        ("manta_gpu_memory_used_bytes", "1"): 0,
        ("manta_gpu_memory_bytes", "0"): 80,
        ("manta_gpu_memory_bytes", "1"): 40,
    }
