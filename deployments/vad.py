"""Voice activity detection as a deployment: samples in, the times at which somebody speaks out."""

from pathlib import Path

import numpy as np

from deployments.backends.base import SpeechSpan, VadRequest, VoiceActivityDetector
from deployments.config import ModelConfig, default_threads
from deployments.engine_threads import EngineThreads, Stopped
from deployments.errors import InvalidRequest
from deployments.metrics import QUEUE_SECONDS
from deployments.resampling import resample


class VadModel:
    """Serves one detector, as many requests at a time as it has threads."""

    def __init__(self, engine: VoiceActivityDetector, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        waited = QUEUE_SECONDS.labels(config.name).observe
        self._threads = EngineThreads(config.threads or default_threads(), config.max_queued_requests, waited)

    async def detect(self, request: VadRequest) -> list[SpeechSpan]:
        """Spans in the order of time. Raises InvalidRequest for samples that are no sound."""
        return await self._threads.run(lambda stopped: self._detect(request, stopped), request.tenant)

    def stats(self) -> dict[str, float]:
        return {**self.engine.stats(), "slots": self._threads.count, **self._threads.stats()}

    def close(self) -> None:
        self._threads.close()
        self.engine.close()

    def _detect(self, request: VadRequest, stopped: Stopped) -> list[SpeechSpan]:
        """In a thread."""
        if request.audio.ndim != 1 or not np.isfinite(request.audio).all():
            raise InvalidRequest("audio must be a list of numbers, the samples of one channel").at("audio")
        samples = resample(request.audio, request.sample_rate, self.engine.sample_rate)
        return [] if stopped() else self.engine.detect(samples)
