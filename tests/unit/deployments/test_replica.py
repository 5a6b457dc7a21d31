"""What a replica says of itself, whatever its model is."""

import os
import time
from typing import Any

import pytest

from deployments.backends.base import EmbedRequest, RerankRequest
from deployments.config import ModelConfig
from deployments.errors import MantaError, ModelLoadFailed
from deployments.metrics import INSTANCE
from deployments.replica import ChatReplica, EmbeddingReplica, Replica, RerankReplica
from deployments.samples import Recorder, Snapshot
from tests.unit.waiting import until

CLASSES: dict[str, type[Replica]] = {"chat": ChatReplica, "embeddings": EmbeddingReplica, "rerank": RerankReplica}


class Reports:
    """A controller that remembers what it was told."""

    def __init__(self) -> None:
        self.heard: list[str | MantaError] = []
        self.snapshots: list[Snapshot] = []

    def loading(self, progress: float) -> None:
        """Of no interest here."""

    async def ready(self) -> None:
        self.heard.append("ready")

    async def failed(self, error: MantaError) -> None:
        self.heard.append(error)

    async def metrics(self, snapshot: Snapshot) -> None:
        self.snapshots.append(snapshot)

    def node(self) -> str:
        return "n-1"


async def replica(usecase: str, options: list[str] | None = None) -> tuple[Any, Reports]:
    reports = Reports()
    config = ModelConfig(name="a", backend="echo", known_usecases=[usecase], options=options)
    made: Any = CLASSES[usecase].__new__(CLASSES[usecase])
    await made.__init__(config, "models", "hash", reports)
    return made, reports


@pytest.fixture(autouse=True)
def _keep_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The constructor sets these."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")


@pytest.mark.parametrize("usecase", CLASSES)
async def test_an_idle_replica_says_so(usecase: str) -> None:
    made, reports = await replica(usecase)
    described = made.describe()
    assert reports.heard == ["ready"]
    assert (described["spec_hash"], described["pid"]) == ("hash", os.getpid())
    assert described["slots_busy"] == described["queued"] == 0
    made.check_health()
    made.close()


async def test_a_replica_reports_where_it_is_and_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    before = time.time()
    made, _ = await replica("chat")
    report = await made.report()
    assert (report.node, report.pid) == ("n-1", os.getpid())
    assert before <= report.loaded_at <= time.time()
    assert report.memory["rss"] > 0
    assert "kv_cache" not in report.memory, "the engine knows of none"
    assert report.stats["slots_busy"] == report.stats["queued"] == 0
    monkeypatch.setattr(made.engine, "stats", lambda: {"slots_busy": 0, "queued": 0, "kv_cache_bytes": 4096.0})
    assert (await made.report()).memory["kv_cache"] == 4096
    made.close()


async def test_a_replica_tells_its_gauges_and_takes_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    made, reports = await replica("chat")
    stats = {"slots_busy": 3, "queued": 2, "slots": 4, "kv_cells_used": 25, "kv_cells": 100, "kv_cache_bytes": 4096}
    monkeypatch.setattr(made.engine, "stats", lambda: stats)
    made._observe()
    told = Recorder().snapshot().samples
    labels = ("model", "a"), ("replica", INSTANCE)
    assert told["manta_queue_length", labels] == 2
    assert told["manta_busy_slots", labels] == 3
    assert told["manta_batch_occupancy_ratio", labels] == 0.75
    assert told["manta_kv_cache_usage_ratio", labels] == 0.25
    assert told["manta_kv_cache_bytes", labels] == 4096
    assert told["manta_model_replicas", (("model", "a"),)] == 1

    await until(lambda: reports.snapshots)
    await made.__del__()  # as Serve does: the instance's
    first, *_, last = reports.snapshots
    assert first.source == last.source and first.number < last.number
    assert not any(name == "manta_model_replicas" for name, _ in last.samples), "the gauges are gone"


async def test_an_encoders_replica_counts_requests_that_run() -> None:
    made, _ = await replica("embeddings", ["width:8"])
    stream = made.stream_embed(EmbedRequest(inputs=["a"] * 1000))
    await anext(stream)
    assert made.describe()["slots_busy"] == 1
    await stream.aclose()
    assert made.describe()["slots_busy"] == 0


async def test_a_rerankers_replica_reranks() -> None:
    made, _ = await replica("rerank")
    assert (await made.rerank(RerankRequest(query="a", documents=["b", "a"]))).scores == [0, 1]


@pytest.mark.parametrize("usecase", ["embeddings", "rerank"])
async def test_a_failed_load_is_reported_in_the_engines_words(usecase: str) -> None:
    made: Any = CLASSES[usecase].__new__(CLASSES[usecase])
    reports = Reports()
    config = ModelConfig(name="a", backend="echo", known_usecases=[usecase], options=["fail_load:no such file"])
    with pytest.raises(ModelLoadFailed, match="no such file"):
        await made.__init__(config, "models", "hash", reports)
    assert [str(error) for error in reports.heard] == ["no such file"]


async def test_an_engine_that_is_broken_for_good_makes_the_replica_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = await replica("embeddings")
    monkeypatch.setattr(made.engine, "stats", lambda: {"failed": 1})
    with pytest.raises(RuntimeError, match="failed"):
        made.check_health()
