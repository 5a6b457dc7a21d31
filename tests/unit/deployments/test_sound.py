"""SoundModel on a composer of plain tones."""

import asyncio
import io
import math
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.backends.base import SoundRequest
from deployments.config import ModelConfig
from deployments.errors import EngineError, InvalidRequest, Overloaded
from deployments.sound import SoundModel
from tests.unit.waiting import until


class Tones:
    """Stereo; left is a ramp, right is silence. Text "wait" goes on until it is stopped or let go."""

    sample_rate = 1000
    max_seconds = 30.0

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.go_on = threading.Event()
        self.stopped = 0
        self.closed = False

    def compose(
        self,
        text: str,
        *,
        seconds: float,
        guidance: float | None,
        do_sample: bool | None,
        seed: int | None,
        stopped: Callable[[], bool],
    ) -> np.ndarray:
        self.asked.append((text, seconds, guidance, do_sample, seed))
        while text == "wait" and not self.go_on.wait(0.005):
            if stopped():
                self.stopped += 1
                return np.zeros((2, 0), np.float32)
        length = round(seconds * self.sample_rate)
        return np.stack([np.linspace(-1, 1, length), np.zeros(length)]).astype(np.float32)

    def stats(self) -> dict[str, float]:
        return {"failed": 0}

    def close(self) -> None:
        self.closed = True


def model(engine: Tones, **fields: Any) -> SoundModel:
    return SoundModel(engine, ModelConfig(name="sound", **fields), Path())


async def test_the_answer_is_a_file_of_the_duration_asked_for() -> None:
    engine = Tones()
    one = model(engine)
    chunk = await one.compose(SoundRequest(text="rain", seconds=0.5, guidance=2.5, do_sample=False, seed=7))
    with wave.open(io.BytesIO(chunk.data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (1000, 2, 500)
        left, right = np.frombuffer(file.readframes(500), "<i2").reshape(-1, 2).T
    assert (left[0], left[-1]) == (-32767, 32767)
    assert not right.any()
    assert engine.asked == [("rain", 0.5, 2.5, False, 7)]
    one.close()


async def test_what_is_not_said_is_the_models_own_and_five_seconds() -> None:
    engine = Tones()
    one = model(engine)
    await one.compose(SoundRequest(text="rain"))
    engine.max_seconds = 2.0
    await one.compose(SoundRequest(text="rain"))
    assert engine.asked == [("rain", 5.0, None, None, None), ("rain", 2.0, None, None, None)]
    one.close()


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"seconds": 30.1}, "duration_seconds", "at most 30 .* not 30.1"),
        ({"seconds": 0.0}, "duration_seconds", "more than 0"),
        ({"seconds": -1.0}, "duration_seconds", "not -1"),
        ({"seconds": math.nan}, "duration_seconds", "not nan"),
        ({"guidance": -0.5}, "prompt_influence", "0 or more"),
        ({"guidance": math.inf}, "prompt_influence", "not inf"),
        ({"text": " \n"}, "text", "empty"),
    ],
)
async def test_what_the_model_cannot_be_asked_for_is_refused(fields: dict[str, Any], param: str, message: str) -> None:
    engine = Tones()
    one = model(engine)
    with pytest.raises(InvalidRequest, match=message) as refused:
        await one.compose(SoundRequest(**{"text": "rain", **fields}))
    assert refused.value.param == param
    assert engine.asked == []
    one.close()


async def test_one_at_a_time_tenants_in_turn_and_no_more_than_may_wait() -> None:
    engine = Tones()
    one = model(engine, max_queued_requests=3)
    tasks = [asyncio.create_task(one.compose(SoundRequest(text="wait", tenant="a", seconds=1)))]
    await until(lambda: len(engine.asked) == 1)
    for tenant, text in (("a", "a1"), ("a", "a2"), ("b", "b1")):
        tasks.append(asyncio.create_task(one.compose(SoundRequest(text=text, tenant=tenant))))
    await until(lambda: one.stats() == {"failed": 0, "slots": 1, "slots_busy": 1, "queued": 3})
    with pytest.raises(Overloaded):
        await one.compose(SoundRequest(text="c1", tenant="c"))
    engine.go_on.set()
    await asyncio.gather(*tasks)
    order = [text for text, *_ in engine.asked]
    assert order.index("b1") < order.index("a2"), "who came last has had no turn yet"
    one.close()


async def test_a_client_who_leaves_ends_it() -> None:
    engine = Tones()
    one = model(engine)
    task = asyncio.create_task(one.compose(SoundRequest(text="wait")))
    await until(lambda: len(engine.asked) == 1)
    task.cancel()
    await until(lambda: engine.stopped == 1 and one.stats()["slots_busy"] == 0)
    assert task.cancelled()
    one.close()


async def test_unloading_ends_it_before_the_engine_closes() -> None:
    engine = Tones()
    one = model(engine)
    task = asyncio.create_task(one.compose(SoundRequest(text="wait")))
    await until(lambda: len(engine.asked) == 1)
    one.close()
    assert engine.stopped == 1
    assert engine.closed
    with pytest.raises(EngineError, match="unloaded"):
        await task
