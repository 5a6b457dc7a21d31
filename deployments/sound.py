"""Music and sounds as a deployment: a description in, an encoded recording out."""

import math
from pathlib import Path

from deployments.audio_encoding import encode_whole
from deployments.backends.base import AudioChunk, Composer, SoundRequest
from deployments.config import ModelConfig
from deployments.engine_threads import EngineThreads, Stopped
from deployments.errors import InvalidRequest
from deployments.metrics import QUEUE_SECONDS

DEFAULT_SECONDS = 5.0
"""LocalAI's (256 tokens of MusicGen)."""


class SoundModel:
    """Serves one composer, one request at a time."""

    def __init__(self, engine: Composer, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        self._threads = EngineThreads(1, config.max_queued_requests, QUEUE_SECONDS.labels(config.name).observe)

    async def compose(self, request: SoundRequest) -> AudioChunk:
        """The whole file. With a seed the same request gives the same samples.

        Raises InvalidRequest for an empty text, and for a duration or guidance that the model can't be asked for.
        """
        if not request.text.strip():
            raise InvalidRequest("text is empty: it says what to compose").at("text")
        longest = self.engine.max_seconds
        seconds = min(DEFAULT_SECONDS, longest) if request.seconds is None else request.seconds
        if not 0 < seconds <= longest:
            raise InvalidRequest(
                f"duration_seconds must be more than 0 and at most {longest:g} for this model, not {seconds:g}"
            ).at("duration_seconds")
        if request.guidance is not None and not (0 <= request.guidance < math.inf):
            raise InvalidRequest(f"prompt_influence must be 0 or more, not {request.guidance:g}").at("prompt_influence")
        return await self._threads.run(lambda stopped: self._compose(request, seconds, stopped), request.tenant)

    def stats(self) -> dict[str, float]:
        return {**self.engine.stats(), "slots": self._threads.count, **self._threads.stats()}

    def close(self) -> None:
        self._threads.close()
        self.engine.close()

    def _compose(self, request: SoundRequest, seconds: float, stopped: Stopped) -> AudioChunk:
        """In the thread."""
        samples = self.engine.compose(
            request.text,
            seconds=seconds,
            guidance=request.guidance,
            do_sample=request.do_sample,
            seed=request.seed,
            stopped=stopped,
        )
        return AudioChunk(b"" if stopped() else encode_whole(samples, self.engine.sample_rate, request.format))
