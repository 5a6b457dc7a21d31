"""How long requests wait for their engine: of each once, when it has begun."""

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from deployments.arrival import Arrival
from deployments.backends.base import (
    ChatRequest,
    CompletionRequest,
    EmbedRequest,
    ImageRequest,
    Picture,
    RerankRequest,
    SoundRequest,
    SpeechRequest,
    Task,
    VadRequest,
)
from deployments.engine_threads import EngineThreads
from deployments.painting import Order, Studio
from tests.unit.deployments.fake_painter import FakePainter
from tests.unit.deployments.test_embedding import fake
from tests.unit.deployments.test_painting import picture
from tests.unit.deployments.test_transcription import request as recording
from tests.unit.echo_dispatch import EchoDispatch
from tests.unit.metric_values import Counted
from tests.unit.waiting import until

SAY: list[dict[str, Any]] = [{"role": "user", "content": "hi"}]
NOISE = np.random.default_rng(0).normal(size=16_000).astype(np.float32)


def test_an_arrival_starts_once() -> None:
    arrival = Arrival(arrived=0.0)
    assert not arrival.started
    arrival.start()
    waited = arrival.queue_seconds
    assert waited and arrival.started
    arrival.start()
    assert arrival.queue_seconds == waited


@pytest.mark.parametrize(
    ("task", "method", "asked", "times"),
    [
        (Task.CHAT, "chat", ChatRequest(messages=SAY), 1),
        (Task.CHAT, "complete", CompletionRequest(prompts=["a", "b"], n=2), 4),
        (Task.EMBEDDING, "embed", EmbedRequest(inputs=["a"] * 600), 1),
        (Task.RERANK, "rerank", RerankRequest(query="a", documents=["b", "c"]), 1),
        (Task.IMAGE, "paint", ImageRequest(prompt="x", n=3), 1),
        (Task.TRANSCRIPTION, "transcribe", recording(0.5, 0.2), 1),
        (Task.SPEECH, "speak", SpeechRequest(text="One thing. And another one. And a third."), 1),
        (Task.SOUND, "compose", SoundRequest(text="rain"), 1),
        (Task.VAD, "detect", VadRequest(audio=NOISE), 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_all_models_tell_it(task: Task, method: str, asked: Any, times: int) -> None:
    counted = Counted("manta_queue")
    await EchoDispatch().call(task, method, asked)
    assert list(counted.more().values()) == [times]


async def test_a_call_tells_it_when_it_begins() -> None:
    waits: list[float] = []
    go_on = threading.Event()
    threads = EngineThreads(1, waited=waits.append)
    calls = [asyncio.create_task(threads.run(lambda _: go_on.wait(20), "")) for _ in range(3)]
    await until(lambda: threads.stats()["queued"] == 2)
    assert len(waits) == 1
    calls[2].cancel()
    go_on.set()
    await asyncio.gather(*calls, return_exceptions=True)
    assert len(waits) == 2, "who left while it waited has not begun"
    assert 0 < waits[0] < waits[1]
    threads.close()


async def test_an_order_tells_it_once_and_not_when_it_was_never_begun() -> None:
    waits: list[float] = []
    painter = FakePainter(batch=1)
    studio = Studio(painter)

    async def paint(*pictures: Picture) -> int:
        order = Order(pictures, waited=waits.append)
        return len([update async for update in studio.paint(order)])

    painter.may_run.clear()
    running = asyncio.create_task(paint(picture(1), picture(2)))
    await until(lambda: painter.batches)
    waiting = [asyncio.create_task(paint(picture(seed))) for seed in (3, 4)]
    await until(lambda: studio.stats()["queued"] == 3)
    waiting[1].cancel()
    painter.may_run.set()
    await asyncio.gather(running, *waiting, return_exceptions=True)
    assert len(waits) == 2
    studio.close()


async def test_inputs_that_were_never_taken_tell_nothing() -> None:
    counted = Counted("manta_queue")
    embedding, engine = fake()
    engine.may_run.clear()
    running = asyncio.create_task(embedding.embed(EmbedRequest(inputs=["1"])))
    await until(lambda: engine.running)
    waiting = asyncio.create_task(embedding.embed(EmbedRequest(inputs=["2"])))
    await until(lambda: embedding.stats()["queued"])
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    engine.may_run.set()
    await running
    assert list(counted.more().values()) == [1]
