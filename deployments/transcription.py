"""Transcription as a deployment: a file of speech in, segments of text out as they are ready."""

import asyncio
import traceback
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import numpy as np

from deployments.backends.base import SegmentGroup, Transcriber, Transcription, TranscriptionRequest
from deployments.config import ModelConfig
from deployments.engine_threads import EngineThreads, Stopped
from deployments.metrics import QUEUE_SECONDS


class TranscriptionModel:
    """Serves one transcriber, each request in a thread of its own."""

    def __init__(self, engine: Transcriber, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        waited = QUEUE_SECONDS.labels(config.name).observe
        self._threads = EngineThreads(engine.parallel, config.max_queued_requests, waited)

    async def transcribe(self, request: TranscriptionRequest) -> Transcription:
        """The whole: the stream, collected."""
        whole = Transcription(language="", duration=0.0, segments=[])
        async with aclosing(self.stream_transcribe(request)) as stream:
            async for group in stream:
                whole.segments += group.segments
                whole.language = group.language or whole.language
                whole.duration = whole.duration if group.duration is None else group.duration
        return whole

    async def stream_transcribe(self, request: TranscriptionRequest) -> AsyncGenerator[SegmentGroup, None]:
        """Segments in the order of time. Closing the generator frees the thread after the window that runs.

        Raises what `audio_decoding.decode` and `Transcriber.transcribe` raise, and Overloaded.
        """
        loop = asyncio.get_running_loop()
        ready: asyncio.Queue[SegmentGroup | None] = asyncio.Queue()

        def transcribe(stopped: Stopped) -> None:
            from deployments.audio_decoding import decode  # PyAV: the replicas of other models do without it

            audio = decode(request.audio, self.engine.sample_rate, max_seconds=self.engine.max_seconds)
            for group in self.engine.transcribe(audio, request, stopped):
                loop.call_soon_threadsafe(ready.put_nowait, group)

        running = asyncio.create_task(self._threads.run(transcribe, request.tenant))
        running.add_done_callback(lambda _: ready.put_nowait(None))
        try:
            while (group := await ready.get()) is not None:
                yield _with_others(group, ready)
            await running
        except BaseException as error:
            # Serve's frames, which have the request, stay with an error until the next full garbage collection, and so
            # do ours: a file of a gigabyte must not.
            traceback.clear_frames(error.__traceback__)
            request.audio = np.empty(0, np.uint8)
            raise
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def stats(self) -> dict[str, float]:
        return {**self.engine.stats(), "slots": self._threads.count, **self._threads.stats()}

    def close(self) -> None:
        self._threads.close()
        self.engine.close()


def _with_others(group: SegmentGroup, ready: "asyncio.Queue[SegmentGroup | None]") -> SegmentGroup:
    """The group and those that were ready with it, as one."""
    while not ready.empty():
        following = ready.get_nowait()
        if following is None:
            ready.put_nowait(None)
            break
        group = SegmentGroup(
            group.segments + following.segments,
            following.language or group.language,
            group.duration if following.duration is None else following.duration,
        )
    return group
