"""Speech synthesis as a deployment: text in, encoded audio out, sentence by sentence."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deployments.arrival import Arrival
from deployments.audio_encoding import open_encoder
from deployments.backends.base import AudioChunk, SpeechRequest, Voice
from deployments.backends.speech_options import SpeechOptions
from deployments.config import ModelConfig
from deployments.engine_threads import EngineThreads, Stopped
from deployments.errors import EngineError, InvalidRequest, Overloaded
from deployments.metrics import QUEUE_SECONDS
from deployments.sentences import split_sentences

if TYPE_CHECKING:
    from numpy.typing import NDArray

SLOWEST, FASTEST = 0.25, 4.0
"""OpenAI's range of `speed`."""
AHEAD = 8
"""Sentences of a request that are spoken or under way, and not sent yet."""

OPENAI_VOICES = frozenset(
    ("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx", "sage", "shimmer", "verse")
)
"""Clients of OpenAI must name one of these: where a model doesn't have it, it is the model's own default voice."""


@dataclass(slots=True, eq=False)
class _Speaking(Arrival):
    """What a request's sentences have in common. It has started when the first of them had its turn."""

    voice: str | None
    language: str | None
    speed: float
    tenant: str


class SpeechModel:
    """Serves one voice. Requests take turns sentence by sentence: a long text holds up a short one by one sentence."""

    def __init__(self, engine: Voice, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        self._options = SpeechOptions.read(config)
        self._voice, self._language = config.tts.voice, config.parameters.language
        self._max_queued = -1 if config.max_queued_requests is None else config.max_queued_requests
        self._threads = EngineThreads(engine.parallel)
        self._waited = QUEUE_SECONDS.labels(config.name).observe
        self._requests: set[_Speaking] = set()
        self._done = dict.fromkeys(("sentences", "audio_s", "busy_s"), 0.0)

    async def speak(self, request: SpeechRequest) -> AudioChunk:
        """The whole file, whose head says how long it is. Raises as `stream_speak`."""
        async with aclosing(self._encoded(request, whole=True)) as pieces:
            return AudioChunk(b"".join([data async for data in pieces]))

    async def stream_speak(self, request: SpeechRequest) -> AsyncGenerator[AudioChunk, None]:
        """The file as it becomes ready, its first piece after the first sentence.

        Raises InvalidRequest for a text without anything to say or too long, a speed, voice, language or format that
        there isn't, and Overloaded, all before the first piece; EngineError at any time.
        """
        async with aclosing(self._encoded(request, whole=False)) as pieces:
            async for data in pieces:
                yield AudioChunk(data)

    def stats(self) -> dict[str, float]:
        """`slots_busy` counts requests, `queued` sentences that wait for a thread. Counters: sentences spoken, seconds
        of audio, and the threads' seconds."""
        return {**self.engine.stats(), **self._threads.stats(), "slots_busy": len(self._requests), **self._done}

    def close(self) -> None:
        """Free the model. Running requests get EngineError. Idempotent."""
        self._threads.close()
        self.engine.close()

    async def _encoded(self, request: SpeechRequest, *, whole: bool) -> AsyncGenerator[bytes, None]:
        """Pieces of the file, none of them empty."""
        encoder = await asyncio.to_thread(open_encoder, request.format, self.engine.sample_rate, whole=whole)
        async with aclosing(self._spoken(request)) as sentences:
            async for samples in sentences:
                if data := await asyncio.to_thread(encoder.encode, samples):
                    yield data
        if data := await asyncio.to_thread(encoder.finish):
            yield data

    async def _spoken(self, request: SpeechRequest) -> AsyncGenerator["NDArray[np.float32]", None]:
        """Mono samples, sentence after sentence, with the pauses between them."""
        speaking = self._checked(request)
        sentences = iter(await self._sentences(request.text))
        pause = np.zeros(round(self._options.sentence_silence * self.engine.sample_rate), np.float32)
        turns = asyncio.Semaphore(self.engine.parallel)
        ahead: deque[asyncio.Task[NDArray[np.float32]]] = deque()
        heard = 0
        with self._admitted(speaking):
            try:
                while True:
                    for sentence in islice(sentences, AHEAD - len(ahead)):
                        ahead.append(asyncio.create_task(self._sentence(sentence, speaking, turns)))
                    if not ahead:
                        break
                    samples = await ahead.popleft()
                    if len(samples):
                        yield np.concatenate((pause, samples)) if heard else samples
                        heard += 1
            finally:
                for task in ahead:
                    task.cancel()
                await asyncio.gather(*ahead, return_exceptions=True)
        if not heard:
            raise InvalidRequest("the voice has no sound for anything in this text").at("input")

    def _checked(self, request: SpeechRequest) -> _Speaking:
        """The request with the config's values. Raises InvalidRequest."""
        if not SLOWEST <= request.speed <= FASTEST:
            raise InvalidRequest(f"speed must be from {SLOWEST} to {FASTEST:g}, not {request.speed:g}").at("speed")
        voice = request.voice or None
        if voice in OPENAI_VOICES and voice not in self.engine.voices:
            voice = None
        language = request.language or self._language
        return _Speaking(voice or self._voice, language, request.speed, request.tenant, waited=self._waited)

    async def _sentences(self, text: str) -> list[str]:
        """Raises InvalidRequest for a text that is too long or has nothing to say."""
        most = self._options.max_characters
        if most is not None and len(text) > most:
            raise InvalidRequest(f"the text has {len(text)} characters; this model takes at most {most}").at("input")
        sentences = await asyncio.to_thread(split_sentences, text)
        if not sentences:
            raise InvalidRequest("the text is empty" if not text.strip() else "the text has no words").at("input")
        return sentences

    @contextmanager
    def _admitted(self, speaking: _Speaking) -> Iterator[None]:
        """Raises Overloaded where `max_queued_requests` wait already."""
        if 0 <= self._max_queued <= sum(not other.started for other in self._requests):
            raise Overloaded(f"{self._max_queued} requests already wait for this model").after(1)
        self._requests.add(speaking)
        try:
            yield
        finally:
            self._requests.discard(speaking)

    async def _sentence(self, text: str, speaking: _Speaking, turns: asyncio.Semaphore) -> "NDArray[np.float32]":
        """`turns` keeps a request to as many places in the line as there are threads."""

        def synthesize(_: Stopped) -> tuple["NDArray[np.float32]", float]:
            speaking.start()
            begun = time.perf_counter()
            samples = self.engine.synthesize(
                text, voice=speaking.voice, language=speaking.language, speed=speaking.speed
            )
            if not np.isfinite(samples).all():
                raise EngineError("the model's output is not finite")
            return samples, time.perf_counter() - begun

        async with turns:
            samples, seconds = await self._threads.run(synthesize, speaking.tenant)
        for name, more in (
            ("sentences", 1), ("audio_s", len(samples) / self.engine.sample_rate), ("busy_s", seconds)
        ):  # fmt: skip
            self._done[name] += more
        return samples
