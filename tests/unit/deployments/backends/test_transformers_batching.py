"""Padded batches on a fake decoder, whose answers are wrong as soon as one row is."""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from deployments.backends.base import Token
from deployments.backends.token_stream import TokenStream
from deployments.backends.transformers_batching import DecodeFailed, PromptJob, Scheduler
from deployments.errors import EngineError, InvalidRequest

from .scheduler_bench import SECONDS_PER_TOKEN, SchedulerBench


def answer(ids: Sequence[int]) -> int:
    """What the fake model says after these."""
    return (sum((place + 1) * token for place, token in enumerate(ids)) + len(ids)) % 1000


class FakePrompts:
    def __init__(self, jobs: Sequence[PromptJob]) -> None:
        self.rows = [list(job.ids) for job in jobs]
        self.columns = max(map(len, self.rows))
        self.done = 0


class FakeDecoder:
    """Keeps the ids of each row, and answers by them."""

    def __init__(self, *, batches: bool = True, splits_prompts: bool = True) -> None:
        self.batches, self.splits_prompts = batches, splits_prompts
        self.rows: list[list[int]] = []
        self.logits: list[int] = []
        self.computed = 0
        self.steps: list[tuple[str, int, int]] = []
        """What was run: its kind, rows, and columns."""
        self.fails: set[str] = set()

    @property
    def columns(self) -> int:
        return max(map(len, self.rows), default=0)

    def start(self, jobs: Sequence[PromptJob]) -> FakePrompts:
        return FakePrompts(jobs)

    def prefill(self, prompts: FakePrompts, columns: int) -> bool:
        assert columns > 0
        self._compute("prefill", len(prompts.rows), columns)
        prompts.done += columns
        assert prompts.done <= prompts.columns
        self.logits = [answer(row) for row in prompts.rows]
        return prompts.done == prompts.columns

    def join(self, prompts: FakePrompts) -> None:
        assert self.batches or not self.rows
        self.rows += prompts.rows

    def decode(self, ids: Sequence[int]) -> None:
        self._compute("decode", len(self.rows), 1)
        for row, token in zip(self.rows, ids, strict=True):
            row.append(token)
        self.logits = [answer(row) for row in self.rows]

    def choose(self, samplers: Sequence[Any]) -> None:
        for sampler, token in zip(samplers, self.logits, strict=True):
            sampler.chosen = token

    def keep(self, rows: Sequence[int]) -> None:
        self.rows = [self.rows[row] for row in rows]

    def _compute(self, kind: str, rows: int, columns: int) -> None:
        if kind in self.fails:
            raise DecodeFailed(f"{kind} is broken")
        self.steps.append((kind, rows, columns))
        self.computed = rows * columns


class FakeSampler:
    def __init__(self, stop_at: int | None, refuse_at: int | None) -> None:
        self.chosen = -1
        self.said = 0
        self.closed = 0
        self._stop_at, self._refuse_at = stop_at, refuse_at

    @property
    def finished(self) -> bool:
        return False

    def next(self, row: int) -> Token | None:
        if self.said == self._refuse_at:
            raise InvalidRequest("refused")
        if self.said == self._stop_at:
            return None
        self.said += 1
        return Token(self.chosen, b"")

    def close(self) -> None:
        self.closed += 1


class Bench(SchedulerBench):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cells: int = 10_000,
        slots: int = 4,
        batch_tokens: int = 256,
        **fake: bool,
    ) -> None:
        super().__init__()
        self.loop = loop
        self.decoder = FakeDecoder(**fake)
        self.scheduler = Scheduler(self.decoder, slots=slots, cells=cells, batch_tokens=batch_tokens, clock=self.clock)

    @property
    def computed(self) -> int:
        return self.decoder.computed

    def submit(
        self,
        prompt: Sequence[int],
        count: int,
        *,
        tenant: str = "",
        stop_at: int | None = None,
        refuse_at: int | None = None,
        inputs: dict[str, Any] | None = None,
    ) -> PromptJob:
        sampler = FakeSampler(stop_at, refuse_at)
        stream = TokenStream(self.loop)
        job = PromptJob(list(prompt), len(prompt) + count, sampler, stream, tenant, inputs=inputs or {})
        self.add(job)
        return job

    def run(self, most: int = 10_000) -> None:
        super().run(most)
        assert self.decoder.rows == []


def expected(prompt: Sequence[int], count: int) -> list[int]:
    ids = list(prompt)
    for _ in range(count):
        ids.append(answer(ids))
    return ids[len(prompt) :]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fake", [{}, {"splits_prompts": False}, {"batches": False, "splits_prompts": False}])
def test_everybody_gets_their_own_answer(loop: asyncio.AbstractEventLoop, seed: int, fake: dict[str, bool]) -> None:
    """Requests come, go and are cancelled at random, with cells for a few of them only."""
    chance = random.Random(seed)
    bench = Bench(loop, cells=300, slots=5, batch_tokens=64, **fake)
    prompts: dict[PromptJob, list[int]] = {}
    cancelled: set[PromptJob] = set()
    for _ in range(300):
        if len(prompts) < 40 and chance.random() < 0.4:
            prompt = [chance.randrange(1000) for _ in range(chance.choice([1, 3, 10, 90]))]
            prompts[bench.submit(prompt, chance.randrange(1, 40), tenant=chance.choice("ab"))] = prompt
        if prompts and chance.random() < 0.02:
            job = chance.choice(list(prompts))
            job.cancelled = True
            cancelled.add(job)
        bench.step()
    bench.run()
    for job, prompt in prompts.items():
        count = job.limit - len(prompt)
        assert job.sampler.closed >= 1  # type: ignore[attr-defined]
        if job in bench.ends:
            assert (bench.ends[job], bench.tokens[job]) == ("length", expected(prompt, count))
        else:
            assert job in cancelled
            assert bench.tokens[job] == expected(prompt, count)[: len(bench.tokens[job])]


def test_requests_run_in_one_batch(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop)
    first = bench.submit([1, 2, 3], 10)
    bench.step()
    bench.submit([4, 5], 10)
    bench.step()
    bench.step()
    assert bench.decoder.steps[-1] == ("decode", 2, 1)
    assert len(bench.tokens[first]) == 3
    bench.run()
    assert set(bench.ends.values()) == {"length"}


def test_prompts_of_about_one_length_are_prefilled_together(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, slots=8)
    for length in (100, 90, 5, 95):
        bench.submit(range(length), 1)
    bench.run()
    assert bench.decoder.steps == [("prefill", 2, 100), ("prefill", 1, 5), ("prefill", 1, 95)]


def test_short_prompts_are_prefilled_together_whatever_their_length(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, slots=8)
    for length in (1, 16, 3, 9):
        bench.submit(range(length), 1)
    bench.run()
    assert bench.decoder.steps == [("prefill", 4, 16)]


def test_a_long_prompt_goes_in_pieces_while_others_generate(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop)
    bench.submit([1], 1000)
    bench.step()
    long = bench.submit(range(900), 1)
    seen = len(bench.decoder.steps)
    while long not in bench.ends:
        bench.step()
    steps = bench.decoder.steps[seen:]
    assert {kind for kind, _, _ in steps[::2]} == {"decode"}
    pieces = [columns for kind, _, columns in steps if kind == "prefill"]
    assert sum(pieces) == 900
    assert max(pieces[3:]) * SECONDS_PER_TOKEN <= 0.21  # after it was measured what a token takes
    assert bench.tokens[long] == expected(range(900), 1)


def test_prompts_with_media_are_whole_and_alone(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, batch_tokens=8)
    bench.submit(range(20), 1, inputs={"pixel_values": 1})
    bench.submit(range(20), 1, inputs={"pixel_values": 2})
    bench.run()
    assert bench.decoder.steps == [("prefill", 1, 20), ("prefill", 1, 20)]


def test_tenants_take_turns(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, slots=1)
    jobs = {name: bench.submit([1], 2, tenant=name[0]) for name in ("a1", "a2", "a3", "b1")}
    bench.run()
    order = [name for job in bench.ends for name, one in jobs.items() if one is job]
    assert order == ["a1", "b1", "a2", "a3"]


def test_the_youngest_makes_room_and_goes_on_later(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, cells=100)
    old = bench.submit([1] * 10, 60)
    bench.step()
    young = bench.submit([2] * 10, 60)
    bench.run()
    assert list(bench.ends) == [old, young]
    assert bench.tokens[old] == expected([1] * 10, 60)
    assert bench.tokens[young] == expected([2] * 10, 60)


def test_a_wait_ends_with_the_first_admission(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, cells=100, slots=2)
    jobs = [bench.submit([seed] * 10, 60) for seed in range(3)]
    bench.step()
    assert [job.started for job in jobs] == [True, True, False]
    waited = [job.queue_seconds for job in jobs[:2]]
    bench.run()
    assert [job.queue_seconds for job in jobs[:2]] == waited, "also of who had to make room, and came again"
    assert jobs[2].started


def test_what_has_no_room_waits(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, cells=100)
    bench.submit([1] * 40, 5)
    bench.step()
    bench.submit([2] * 40, 5)
    bench.step()
    assert bench.scheduler.stats()["queued"] == 1
    bench.run()
    assert set(bench.ends.values()) == {"length"}


def test_an_end_token_is_not_sent(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop)
    job = bench.submit([1], 10, stop_at=2)
    bench.run()
    assert (bench.ends[job], bench.tokens[job]) == ("stop", expected([1], 2))


def test_a_cancelled_request_leaves_at_the_next_step(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop)
    job, other = bench.submit([1], 100), bench.submit([2], 5)
    bench.step()
    job.cancelled = True
    bench.step()
    assert len(bench.decoder.rows) == 1
    bench.run()
    assert list(bench.ends) == [other]


def test_all_prompts_on_their_way_may_be_cancelled(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, batch_tokens=16)
    job = bench.submit(range(100), 5)
    bench.step()
    job.cancelled = True
    bench.step()
    assert bench.scheduler.idle
    assert job.sampler.closed == 1  # type: ignore[attr-defined]


def test_a_sampler_fails_alone(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop)
    bad, good = bench.submit([1], 5, refuse_at=2), bench.submit([2], 5)
    bench.run()
    assert isinstance(bench.ends[bad], InvalidRequest)
    assert bench.tokens[good] == expected([2], 5)


@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_who_was_computed_when_the_model_failed_gets_its_words(loop: asyncio.AbstractEventLoop, kind: str) -> None:
    bench = Bench(loop)
    job = bench.submit([1], 5)
    bench.decoder.fails = {kind}
    bench.run()
    assert isinstance(bench.ends[job], EngineError)
    assert f"{kind} is broken" in str(bench.ends[job])
    assert bench.scheduler.failures == 1
    bench.decoder.fails = set()
    other = bench.submit([1], 5)
    bench.run()
    assert bench.tokens[other] == expected([1], 5)
    assert bench.scheduler.failures == 0


def test_all_can_be_failed(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, slots=1)
    jobs = [bench.submit([1], 5) for _ in range(3)]
    bench.step()
    outputs = bench.scheduler.fail_all(EngineError("closed"))
    assert {output.job for output in outputs} == set(jobs)
    assert bench.scheduler.idle


def test_stats(loop: asyncio.AbstractEventLoop) -> None:
    bench = Bench(loop, cells=100, slots=1)
    bench.submit([1] * 10, 5)
    bench.submit([1] * 10, 5)
    bench.step()
    assert bench.scheduler.stats() == {
        "slots": 1, "slots_busy": 1, "queued": 1, "kv_cells": 100, "kv_cells_used": 10,
    }  # fmt: skip
