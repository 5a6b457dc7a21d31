"""TranscriptionModel on a transcriber that the test holds still."""

import asyncio
import gc
import io
import threading
import wave
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from deployments.backends.base import Segment, SegmentGroup, TranscriptionRequest
from deployments.config import ModelConfig
from deployments.errors import EngineError, InvalidRequest, Overloaded
from deployments.transcription import TranscriptionModel
from tests.unit.waiting import until

RATE = 16_000


class Seconds:
    """A segment for each second, whose text is its loudest sample. Each waits for a permit where there are any."""

    sample_rate = RATE
    max_seconds = 100.0

    def __init__(self, parallel: int = 2) -> None:
        self.parallel = parallel
        self.permits: threading.Semaphore | None = None
        self.running = 0
        self.given = 0
        self.asked: list[TranscriptionRequest] = []
        self.closed = False

    def transcribe(
        self, audio: Iterator[np.ndarray], request: TranscriptionRequest, stopped: Callable[[], bool]
    ) -> Iterator[SegmentGroup]:
        self.asked.append(request)
        self.running += 1
        try:
            samples = np.concatenate(list(audio))
            yield SegmentGroup([], language="en")
            for start in range(0, samples.size, RATE):
                while self.permits and not self.permits.acquire(timeout=0.005):
                    if stopped():
                        return
                if request.prompt == "fail" and start:
                    raise EngineError("it broke")
                self.given += 1
                text = f" {samples[start : start + RATE].max():.1f}"
                yield SegmentGroup([segment(start // RATE, text)])
            yield SegmentGroup([], duration=samples.size / RATE)
        finally:
            self.running -= 1

    def stats(self) -> dict[str, float]:
        return {"failed": 0}

    def close(self) -> None:
        self.closed = True


def segment(number: int, text: str) -> Segment:
    return Segment(
        id=number, start=number, end=number + 1, text=text, tokens=[], temperature=0, avg_logprob=0,
        compression_ratio=1, no_speech_prob=0,
    )  # fmt: skip


def request(*levels: float, **fields: Any) -> TranscriptionRequest:
    """A WAV with a second of each level."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes(np.repeat(np.array(levels) * 32767, RATE).astype("<i2").tobytes())
    return TranscriptionRequest(audio=np.frombuffer(file.getvalue(), np.uint8), **fields)


def model(engine: Seconds, **fields: Any) -> TranscriptionModel:
    return TranscriptionModel(engine, ModelConfig(name="m", **fields), Path())


async def test_the_answer_is_the_stream_collected() -> None:
    engine = Seconds()
    asked = request(0.1, 0.5, 0.9, language="de", word_timestamps=True)
    answer = await model(engine).transcribe(asked)
    assert [found.text for found in answer.segments] == [" 0.1", " 0.5", " 0.9"]
    assert (answer.language, answer.duration) == ("en", 3.0)
    assert engine.asked == [asked]


async def test_segments_come_when_they_are_ready() -> None:
    engine = Seconds()
    engine.permits = threading.Semaphore(0)
    transcription = model(engine)
    stream = transcription.stream_transcribe(request(0.1, 0.2, 0.3))
    assert (await anext(stream)).language == "en"
    for number in range(3):
        engine.permits.release()
        assert [found.id for found in (await anext(stream)).segments] == [number]
    rest = [group async for group in stream]
    assert all(not group.segments for group in rest)
    await until(lambda: not transcription.stats()["slots_busy"])


async def test_what_is_ready_together_comes_together() -> None:
    engine = Seconds()
    transcription = model(engine)
    stream = transcription.stream_transcribe(request(*[0.5] * 50))
    first = await anext(stream)
    await until(lambda: not engine.running)
    groups = [first, *[group async for group in stream]]
    assert len(groups) <= 5
    assert [found.id for group in groups for found in group.segments] == list(range(50))
    assert groups[-1].duration == 50


async def test_a_client_who_leaves_stops_the_engine() -> None:
    engine = Seconds()
    engine.permits = threading.Semaphore(1)
    transcription = model(engine)
    stream = transcription.stream_transcribe(request(*[0.5] * 50))
    while not (await anext(stream)).segments:
        pass
    await stream.aclose()
    await until(lambda: not engine.running)
    await until(lambda: transcription.stats()["slots_busy"] == 0)
    assert engine.given == 1


async def test_a_cancelled_answer_stops_the_engine_and_a_waiting_one_never_starts() -> None:
    engine = Seconds(parallel=1)
    engine.permits = threading.Semaphore(0)
    transcription = model(engine)
    running = asyncio.create_task(transcription.transcribe(request(0.5)))
    await until(lambda: engine.running)
    waiting = asyncio.create_task(transcription.transcribe(request(0.5)))
    await until(lambda: transcription.stats()["queued"])
    for task in (waiting, running):
        task.cancel()
    await asyncio.gather(waiting, running, return_exceptions=True)
    await until(lambda: not engine.running)
    assert len(engine.asked) == 1
    assert transcription.stats()["queued"] == 0


async def test_an_error_comes_after_what_was_ready() -> None:
    stream = model(Seconds()).stream_transcribe(request(0.5, 0.5, prompt="fail"))
    found = []

    async def read() -> None:
        async for group in stream:
            found.extend(group.segments)

    with pytest.raises(EngineError, match="it broke"):
        await read()
    assert [one.id for one in found] == [0]


async def test_bad_files_are_the_clients_mistake_and_cost_nothing() -> None:
    transcription = model(Seconds())
    for file in (b"", b"no audio at all", bytes(1000)):
        with pytest.raises(InvalidRequest) as refused:
            await transcription.transcribe(TranscriptionRequest(audio=np.frombuffer(file, np.uint8)))
        assert refused.value.param == "file"
    with pytest.raises(InvalidRequest, match="longer than the 100 seconds"):
        await transcription.transcribe(request(*[0.1] * 101))
    assert (await transcription.transcribe(request(0.3))).segments[0].text == " 0.3"
    await until(lambda: transcription.stats()["slots_busy"] == 0)


async def test_a_full_queue_refuses_with_429() -> None:
    engine = Seconds(parallel=1)
    engine.permits = threading.Semaphore(0)
    transcription = model(engine, max_queued_requests=1)
    tasks = [asyncio.create_task(transcription.transcribe(request(0.5))) for _ in range(2)]
    await until(lambda: transcription.stats()["queued"] == 1)
    with pytest.raises(Overloaded):
        await transcription.transcribe(request(0.5))
    engine.permits.release(2)
    assert len(await asyncio.gather(*tasks)) == 2


async def test_close_ends_everything() -> None:
    engine = Seconds(parallel=1)
    engine.permits = threading.Semaphore(0)
    transcription = model(engine)
    tasks = [asyncio.create_task(transcription.transcribe(request(0.5))) for _ in range(2)]
    await until(lambda: engine.running and transcription.stats()["queued"])
    transcription.close()
    for task in tasks:
        with pytest.raises(EngineError, match="unloaded"):
            await task
    assert engine.closed and not engine.running
    with pytest.raises(EngineError, match="unloaded"):
        await transcription.transcribe(request(0.5))


async def test_an_error_keeps_no_file() -> None:
    """Where it lives on, in a cycle of Ray's, say, and the request with it: that may be a gigabyte."""
    audio = np.frombuffer(b"no audio", np.uint8)
    kept, reference = TranscriptionRequest(audio=audio), weakref.ref(audio)
    del audio
    gc.disable()
    try:
        with pytest.raises(InvalidRequest) as refused:
            await TranscriptionModel(Seconds(), ModelConfig(name="t"), Path()).transcribe(kept)
        await until(lambda: reference() is None)
    finally:
        gc.enable()
    assert refused.tb
