"""A model's life inside a Serve replica: it loads its engine and tells the controller how that goes."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from deployments import process_memory
from deployments.backends.registry import engine_class
from deployments.chat import ChatModel
from deployments.config import ModelConfig, default_threads, tasks
from deployments.embedding import EmbeddingModel
from deployments.errors import MantaError, ModelLoadFailed
from deployments.image import ImageModel
from deployments.metrics_push import MetricsPush
from deployments.replica_metrics import ReplicaMetrics
from deployments.reports import ReplicaReport
from deployments.rerank import RerankModel
from deployments.samples import Snapshot
from deployments.sound import SoundModel
from deployments.speech import SpeechModel
from deployments.transcription import TranscriptionModel
from deployments.vad import VadModel

logger = logging.getLogger("manta.replica")

PROGRESS_PERIOD_S = 0.5


class Reporter(Protocol):
    """Where a replica reports its load. The real one is `serve_apps.ControllerReporter`."""

    def loading(self, progress: float) -> None: ...

    async def ready(self) -> None: ...

    async def failed(self, error: MantaError) -> None: ...

    async def metrics(self, snapshot: Snapshot) -> None: ...

    def node(self) -> str:
        """Id of the Ray node that this process runs on."""
        ...


class Replica:
    """Goes before a model class (`class ChatReplica(Replica, ChatModel)`) and gives it its engine.

    The constructor returns when the model is loaded: Serve counts the replica as started only then.
    """

    stats: Callable[[], dict[str, float]]
    """The model class's: slots_busy, queued, … Both 0: idle. `failed` 1: broken for good."""
    close: Callable[[], None]
    """The model class's: free the engine; idempotent."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, config: ModelConfig, models_path: str, spec_hash: str, reporter: Reporter
    ) -> None:
        self._spec_hash = spec_hash
        os.environ.setdefault("OMP_NUM_THREADS", str(config.threads or default_threads()))
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        loop = asyncio.get_running_loop()
        try:
            engine = await asyncio.to_thread(load_engine, config, Path(models_path), _throttled(loop, reporter.loading))
            super().__init__(engine, config, Path(models_path))  # type: ignore[call-arg]
        except Exception as cause:
            error = cause if isinstance(cause, MantaError) else ModelLoadFailed(f"{type(cause).__name__}: {cause}")
            logger.exception("loading model %s failed", config.name)
            await reporter.failed(error)
            raise error from cause
        self._node, self._loaded_at = reporter.node(), time.time()
        self._metrics = ReplicaMetrics(config.name)
        self._push = MetricsPush(reporter.metrics, self._observe, process="model", node=self._node)
        # Serve awaits this one when the replica is to end; the interpreter calls the class's.
        self.__del__ = self._end  # type: ignore[assignment, method-assign]
        await reporter.ready()

    def describe(self) -> dict[str, Any]:
        """For the controller: which spec runs here, and what it is doing."""
        return {"spec_hash": self._spec_hash, "pid": os.getpid(), **self.stats()}

    async def report(self) -> ReplicaReport:
        """For operators: where it runs, what it holds, and what it is doing."""
        stats, memory = self.stats(), await asyncio.to_thread(process_memory.held)
        if "kv_cache_bytes" in stats:
            memory["kv_cache"] = int(stats.pop("kv_cache_bytes"))
        return ReplicaReport(self._node, os.getpid(), memory, stats, self._loaded_at)

    def check_health(self) -> None:
        """Serve restarts the replica when this raises."""
        if self.stats().get("failed"):
            raise RuntimeError("the engine has failed")

    def _observe(self) -> None:
        self._metrics.observe(self.stats())

    async def _end(self) -> None:
        try:
            await self._push.stop()
        finally:
            self.close()

    def __del__(self) -> None:
        if hasattr(self, "engine"):  # the model class was made
            self.close()


class ChatReplica(Replica, ChatModel):
    """Text generation."""


class EmbeddingReplica(Replica, EmbeddingModel):
    """Embeddings, and reranking by their similarity."""


class RerankReplica(Replica, RerankModel):
    """Reranking."""


class TranscriptionReplica(Replica, TranscriptionModel):
    """Speech recognition."""


class SpeechReplica(Replica, SpeechModel):
    """Speech synthesis."""


class SoundReplica(Replica, SoundModel):
    """Music and sounds."""


class VadReplica(Replica, VadModel):
    """Voice activity detection."""


class ImageReplica(Replica, ImageModel):
    """Image generation."""


def load_engine(config: ModelConfig, models_path: Path, progress: Callable[[float], None]) -> Any:
    """Import the backend and load the model; blocking."""
    assert config.backend is not None, "the catalog gives every config a backend"
    return engine_class(config.backend, tasks(config)[0]).load(config, models_path, progress)


def _throttled(loop: asyncio.AbstractEventLoop, report: Callable[[float], None]) -> Callable[[float], None]:
    """Engines call per tensor and from their own thread; the controller hears of it twice a second, from the loop."""
    last = 0.0

    def progress(fraction: float) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= PROGRESS_PERIOD_S:
            last = now
            loop.call_soon_threadsafe(report, fraction)

    return progress
