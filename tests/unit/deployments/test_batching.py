"""The batcher on an encoder that the test holds still."""

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest

from deployments.backends.base import Tokens
from deployments.batching import Batcher
from deployments.errors import EngineError
from deployments.input_queue import Owner
from tests.unit.deployments.fake_encoder import FakeEncoder
from tests.unit.waiting import until


def tokens(*firsts: int, length: int = 4) -> list[Tokens]:
    return [Tokens([first] * length) for first in firsts]


@pytest.fixture
async def encoder() -> FakeEncoder:
    return FakeEncoder()


@pytest.fixture
async def batcher(encoder: FakeEncoder) -> AsyncIterator[Batcher]:
    batcher = Batcher(encoder)
    yield batcher
    encoder.may_run.set()
    await asyncio.to_thread(batcher.close)


def start(batcher: Batcher, *firsts: int, length: int = 4) -> "asyncio.Task[np.ndarray]":
    return asyncio.create_task(batcher.run(tokens(*firsts, length=length), Owner()))


async def held(batcher: Batcher, encoder: FakeEncoder) -> "asyncio.Task[np.ndarray]":
    """A batch that runs until the test lets it end; what comes now waits."""
    encoder.may_run.clear()
    task = start(batcher, 0)
    await until(lambda: encoder.running)
    return task


async def test_rows_are_in_the_order_of_the_inputs(batcher: Batcher) -> None:
    items = [Tokens([i] * (1 + i * 7 % 50)) for i in range(300)]
    rows = await batcher.run(items, Owner())
    assert rows.tolist() == [[i, 1 + i * 7 % 50] for i in range(300)]


async def test_no_inputs_have_no_rows(batcher: Batcher, encoder: FakeEncoder) -> None:
    assert (await batcher.run([], Owner())).shape == (0, 2)
    assert encoder.batches == []


async def test_a_lone_request_starts_at_once(batcher: Batcher, encoder: FakeEncoder) -> None:
    """After two turns of the event loop, not after a time."""
    encoder.may_run.clear()
    task = start(batcher, 1)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert batcher.stats()["batches_running"] == 1
    encoder.may_run.set()
    await task


async def test_requests_of_one_turn_of_the_loop_run_together(batcher: Batcher, encoder: FakeEncoder) -> None:
    await asyncio.gather(*(start(batcher, i) for i in range(10)))
    assert encoder.batches == [list(range(10))]


async def test_what_comes_while_a_batch_runs_makes_up_the_next(batcher: Batcher, encoder: FakeEncoder) -> None:
    first = await held(batcher, encoder)
    others = [start(batcher, i, i + 100) for i in range(1, 20)]
    await until(lambda: batcher.stats()["queued"] == 38)
    encoder.may_run.set()
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in encoder.batches] == [1, 38]
    assert [task.result()[:, 0].tolist() for task in others] == [[i, i + 100] for i in range(1, 20)]


async def test_batches_are_counted_in_padded_tokens(batcher: Batcher, encoder: FakeEncoder) -> None:
    await asyncio.gather(start(batcher, *range(20), length=64), start(batcher, *range(100, 200), length=8))
    assert sorted(map(len, encoder.batches)) == [4, 8, 8, 36, 64]


async def test_only_the_bad_request_of_a_mixed_batch_fails(batcher: Batcher, encoder: FakeEncoder) -> None:
    first = await held(batcher, encoder)
    good, bad, also_good = start(batcher, 1, 2), start(batcher, 3, 666), start(batcher, 4)
    await until(lambda: batcher.stats()["queued"] == 5)
    encoder.may_run.set()
    assert (await good)[:, 0].tolist() == [1, 2]
    assert (await also_good)[:, 0].tolist() == [4]
    with pytest.raises(EngineError, match="bad input"):
        await bad
    await first
    assert sorted(encoder.batches[1]) == [1, 2, 3, 4, 666]
    assert batcher.stats()["queued"] == batcher.stats()["batches_running"] == 0


async def test_an_error_that_is_no_engines_reaches_its_caller_alone(batcher: Batcher) -> None:
    good, bad = start(batcher, 1), start(batcher, 777)
    with pytest.raises(ZeroDivisionError):
        await bad
    assert (await good)[0, 0] == 1


async def test_the_rest_of_a_failed_request_leaves_the_queue(batcher: Batcher, encoder: FakeEncoder) -> None:
    with pytest.raises(EngineError):
        await batcher.run(tokens(666, *range(100), length=256), Owner())
    assert batcher.stats()["queued"] == 0
    assert len(encoder.batches) <= 2


async def test_an_output_that_is_not_finite_is_an_error(
    batcher: Batcher, encoder: FakeEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "encode", lambda batch: np.full((len(batch), 2), np.nan, np.float32))
    with pytest.raises(EngineError, match="not finite"):
        await batcher.run(tokens(1), Owner())


async def test_a_cancelled_request_leaves_the_queue_at_once(batcher: Batcher, encoder: FakeEncoder) -> None:
    first = await held(batcher, encoder)
    gone, stays = start(batcher, *range(1, 200)), start(batcher, 500)
    await until(lambda: batcher.stats()["queued"] == 200)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert batcher.stats()["queued"] == 1
    encoder.may_run.set()
    await asyncio.gather(first, stays)
    assert encoder.batches == [[0], [500]]


async def test_a_request_cancelled_while_it_runs_harms_nobody(batcher: Batcher, encoder: FakeEncoder) -> None:
    encoder.may_run.clear()
    gone, stays = start(batcher, 1), start(batcher, 2)
    await until(lambda: encoder.running)
    gone.cancel()
    encoder.may_run.set()
    assert (await stays)[0, 0] == 2


async def test_as_many_batches_run_at_once_as_the_encoder_wants() -> None:
    encoder = FakeEncoder(batch_tokens=4, parallel_batches=2)
    batcher = Batcher(encoder)
    encoder.may_run.clear()
    tasks = [start(batcher, i) for i in range(6)]
    await until(lambda: encoder.running == 2)
    encoder.may_run.set()
    await asyncio.gather(*tasks)
    assert encoder.most_running == 2
    await asyncio.to_thread(batcher.close)


async def test_stats_count_what_was_done(batcher: Batcher) -> None:
    await asyncio.gather(start(batcher, 1, length=10), start(batcher, 2, length=8))
    stats = batcher.stats()
    assert (stats["batches"], stats["inputs"], stats["tokens"], stats["padding"]) == (1, 2, 18, 2)
    assert stats["busy_s"] > 0


async def test_close_answers_those_who_wait_and_those_who_come() -> None:
    encoder = FakeEncoder()
    batcher = Batcher(encoder)
    running = await held(batcher, encoder)
    waiting = start(batcher, 1)
    await until(lambda: batcher.stats()["queued"] == 1)
    threading.Timer(0.05, encoder.may_run.set).start()
    batcher.close()
    batcher.close()
    for task in (running, waiting, start(batcher, 2)):
        with pytest.raises(EngineError, match="unloaded"):
            await task
