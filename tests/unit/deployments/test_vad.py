"""VadModel on a detector that calls loud frames speech."""

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.backends.base import SpeechSpan, VadRequest
from deployments.config import ModelConfig
from deployments.errors import InvalidRequest
from deployments.vad import VadModel
from tests.unit.waiting import until


class Loudness:
    """One span from the first loud sample to the last."""

    sample_rate = 16_000

    def __init__(self) -> None:
        self.running = 0
        self.most_running = 0
        self.may_run = threading.Event()
        self.may_run.set()
        self.closed = False
        self._lock = threading.Lock()

    def detect(self, samples: np.ndarray) -> list[SpeechSpan]:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        assert self.may_run.wait(20)
        with self._lock:
            self.running -= 1
        loud = np.flatnonzero(np.abs(samples) > 0.25)
        return [SpeechSpan(loud[0] / self.sample_rate, (loud[-1] + 1) / self.sample_rate)] if loud.size else []

    def stats(self) -> dict[str, float]:
        return {"failed": 0}

    def close(self) -> None:
        self.closed = True


def model(engine: Loudness, **fields: Any) -> VadModel:
    return VadModel(engine, ModelConfig(name="vad", **{"threads": 2, **fields}), Path())


def noise(rate: int, start: float, end: float, seconds: float) -> np.ndarray:
    samples = np.zeros(round(rate * seconds), np.float32)
    samples[round(rate * start) : round(rate * end)] = 0.5
    return samples


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
async def test_times_are_seconds_of_the_recording_whatever_its_rate(rate: int) -> None:
    one = model(Loudness())
    (span,) = await one.detect(VadRequest(audio=noise(rate, 0.5, 1.25, 2), sample_rate=rate))
    assert (span.start, span.end) == pytest.approx((0.5, 1.25), abs=0.001)
    one.close()


async def test_silence_and_nothing_have_no_spans() -> None:
    one = model(Loudness())
    assert await one.detect(VadRequest(audio=np.zeros(16_000, np.float32))) == []
    assert await one.detect(VadRequest(audio=np.zeros(0, np.float32))) == []
    one.close()


@pytest.mark.parametrize(
    "audio", [np.array([0, np.nan], np.float32), np.array([np.inf], np.float32), np.zeros((2, 9), np.float32)]
)
async def test_what_is_no_sound_is_refused(audio: np.ndarray) -> None:
    one = model(Loudness())
    with pytest.raises(InvalidRequest, match="audio must be") as refused:
        await one.detect(VadRequest(audio=audio))
    assert refused.value.param == "audio"
    one.close()


async def test_as_many_at_once_as_there_are_threads_and_the_loop_goes_on() -> None:
    engine = Loudness()
    engine.may_run.clear()
    one = model(engine)
    requests = [asyncio.create_task(one.detect(VadRequest(audio=noise(16_000, 0, 1, 1)))) for _ in range(5)]
    await until(lambda: engine.running == 2)
    assert one.stats() == {"failed": 0, "slots": 2, "slots_busy": 2, "queued": 3}
    engine.may_run.set()
    assert await asyncio.gather(*requests) == [[SpeechSpan(0, 1)]] * 5
    assert engine.most_running == 2
    assert one.stats() == {"failed": 0, "slots": 2, "slots_busy": 0, "queued": 0}
    one.close()
    assert engine.closed
