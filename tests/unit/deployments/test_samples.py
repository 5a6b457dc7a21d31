"""What a process has counted: snapshots, when there is news, and sums."""

import pickle

import pytest

from deployments import samples as module
from deployments.metrics import COLD_STARTS, MODEL_LOAD_SECONDS, MODEL_REPLICAS, PROCESS_MEMORY
from deployments.samples import HEARTBEAT_S, Key, Recorder, Samples, added, counts


def key(name: str, **labels: str) -> Key:
    return name, tuple(labels.items())


def test_a_snapshot_has_every_sample_and_crosses_processes() -> None:
    recorder = Recorder()
    COLD_STARTS.labels("snap").inc(2)
    MODEL_LOAD_SECONDS.labels("snap").observe(0.3)
    first, second = recorder.snapshot(), pickle.loads(pickle.dumps(recorder.snapshot()))
    assert first.source == second.source != Recorder().snapshot().source
    assert first.number < second.number
    assert second.samples[key("manta_cold_starts_total", model="snap")] == 2
    assert second.samples[key("manta_model_load_seconds_bucket", model="snap", le="0.25")] == 0
    assert second.samples[key("manta_model_load_seconds_bucket", model="snap", le="0.5")] == 1
    assert second.samples[key("manta_model_load_seconds_sum", model="snap")] == 0.3
    assert not any(name.endswith("_created") for name, _ in second.samples)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_there_is_news_when_something_was_recorded_and_every_few_seconds(clock: list[float]) -> None:
    recorder = Recorder()
    assert recorder.news(), "the first one"
    assert recorder.news() is None
    for record in (
        COLD_STARTS.labels("news").inc,
        lambda: MODEL_LOAD_SECONDS.labels("news").observe(1),
        lambda: MODEL_REPLICAS.labels("news").set(1),
        MODEL_REPLICAS.labels("news").dec,
    ):
        record()
        assert recorder.news()
        assert recorder.news() is None
    clock[0] += HEARTBEAT_S
    assert recorder.news(), "it lives"
    assert recorder.news() is None


def test_what_stays_of_a_process_has_no_gauges() -> None:
    COLD_STARTS.labels("last").inc()
    PROCESS_MEMORY.labels("ingress", "x").set(5)
    last = Recorder().snapshot().counts().samples
    assert last[key("manta_cold_starts_total", model="last")] == 1
    assert key("manta_process_resident_memory_bytes", process="ingress", instance="x") not in last


def test_samples_add_up_and_machines_are_not_counted_twice() -> None:
    gpu, replicas, starts = (
        key("manta_gpu_memory_bytes", node="n", gpu="0"),
        key("manta_model_replicas", model="a"),
        key("manta_cold_starts_total", model="a"),
    )
    one: Samples = {gpu: 80.0, replicas: 1.0, starts: 2.0}
    other: Samples = {gpu: 79.0, replicas: 1.0, starts: 3.0, key("manta_cold_starts_total", model="b"): 1.0}
    total = added([one, other])
    assert total == {gpu: 80.0, replicas: 2.0, starts: 5.0, key("manta_cold_starts_total", model="b"): 1.0}
    assert counts(total) == {starts: 5.0, key("manta_cold_starts_total", model="b"): 1.0}
    assert added([]) == {}
