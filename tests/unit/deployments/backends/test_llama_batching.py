"""Scheduling on a fake decoder, whose answers are wrong as soon as one cell is."""

import asyncio
import random
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pytest

from deployments.backends import llama_batching
from deployments.backends.base import Token
from deployments.backends.jobs import Job, Output
from deployments.backends.llama_batching import CellsExhausted, DecodeFailed, Scheduler
from deployments.backends.media_span import MediaSpan, row_ids
from deployments.backends.slots import Slots
from deployments.backends.token_stream import TokenStream
from deployments.errors import EngineError, InvalidRequest

from .fake_decoder import FakeDecoder, FakeSampler, answer
from .scheduler_bench import SECONDS_PER_TOKEN, SchedulerBench


class Bench(SchedulerBench):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        cells: int,
        slots: int = 4,
        idle_cells: int = 10**6,
        spread_cells: int = 10**6,
        archive_bytes: int = 0,
        **fake,
    ):
        super().__init__()
        self.loop = loop
        self.decoder = FakeDecoder(cells, **fake)
        self.slots = Slots(
            self.decoder, slots, idle_cells=idle_cells, spread_cells=spread_cells, archive_bytes=archive_bytes
        )
        self.scheduler = Scheduler(self.decoder, self.slots, clock=self.clock)

    @property
    def computed(self) -> int:
        return self.decoder.batch.size

    def submit(self, prompt: Sequence[int], count: int, tenant: str = "", stop_at: int | None = None) -> Job:
        sampler = FakeSampler(self.decoder, stop_at)
        job = Job(list(prompt), len(prompt) + count, sampler, TokenStream(self.loop), tenant)
        self.add(job)
        return job

    def submit_with_media(self, pieces: Sequence[Sequence[int]], count: int, *, causal: bool = True) -> Job:
        """Every second piece is a picture. Its rows say what tokens would, so that `answer` knows what comes out."""
        starts = accumulate(map(len, pieces), initial=0)
        pictures = [(start, piece) for start, piece in zip(starts, pieces, strict=False)][1::2]
        spans = [MediaSpan(start, np.array([piece], np.float32).T, causal) for start, piece in pictures]
        parts = [row_ids(bytes(piece), len(piece)) if i % 2 else piece for i, piece in enumerate(pieces)]
        ids = [item for part in parts for item in part]
        job = Job(ids, len(ids) + count, FakeSampler(self.decoder), TokenStream(self.loop), spans=spans)
        self.add(job)
        return job

    def step(self) -> list[Output]:
        outputs = super().step()
        assert self.decoder.used == self.scheduler.stats()["kv_cells_used"]
        return outputs


def prompt(length: int, seed: int = 0) -> list[int]:
    return random.Random(seed).choices(range(1000), k=length)


def test_each_gets_the_answer_it_would_get_alone(loop) -> None:
    bench = Bench(loop, cells=1000)
    lengths = [(3, 9), (70, 5), (20, 1), (1, 30), (64, 2), (65, 3)]
    jobs = [bench.submit(prompt(length, seed), count) for seed, (length, count) in enumerate(lengths)]
    bench.run()
    for seed, (job, (length, count)) in enumerate(zip(jobs, lengths, strict=True)):
        assert bench.tokens[job] == answer(prompt(length, seed), count)
        assert bench.ends[job] == "length"
        assert job.sampler.closed


def test_an_end_token_stops_and_is_no_output(loop) -> None:
    bench = Bench(loop, cells=100)
    expected = answer(prompt(5), 8)
    job = bench.submit(prompt(5), 50, stop_at=expected[7])
    bench.run()
    assert (bench.tokens[job], bench.ends[job]) == (expected[:7], "stop")


def test_a_finished_sampler_stops_with_its_last_token(loop) -> None:
    bench = Bench(loop, cells=100)
    job = bench.submit(prompt(5), 50)
    bench.step()
    job.sampler.finished = True
    bench.run()
    assert (len(bench.tokens[job]), bench.ends[job]) == (2, "stop")


def test_a_long_prompt_does_not_stall_who_is_generating(loop) -> None:
    bench = Bench(loop, cells=10_000, capacity=512)
    talker = bench.submit(prompt(5), 300)
    for _ in range(3):
        bench.step()
    reader = bench.submit(prompt(3000, 1), 1)
    while not bench.tokens[reader]:
        before = len(bench.tokens[talker])
        bench.step()
        assert len(bench.tokens[talker]) == before + 1
    chunk = llama_batching.STEP_SECONDS / SECONDS_PER_TOKEN
    assert 0.5 * chunk < max(bench.decoder.sizes) <= 1.5 * chunk


def test_long_prompts_share_a_batch_and_leave_no_short_rest(loop) -> None:
    bench = Bench(loop, cells=2000, capacity=512)
    for seed in range(3):
        bench.submit(prompt(180, seed), 1)
    bench.run()
    assert bench.decoder.sizes == [180 + 180 + 116, 64]


def test_short_prompts_long_ones_and_generated_tokens_go_apart(loop) -> None:
    """Below `TILE` a batch computes as one request alone would; numbers don't depend on who else is there."""
    bench = Bench(loop, cells=2000, capacity=512)
    bench.submit(prompt(30, 1), 9)
    bench.step()
    bench.submit(prompt(30, 2), 1)
    bench.submit(prompt(30, 3), 1)
    bench.submit(prompt(30, 4), 1)
    bench.submit(prompt(70, 5), 1)
    bench.run()
    assert [size for size in bench.decoder.sizes if size > 1] == [30, 60, 30, 70]
    assert 1 in bench.decoder.sizes


def test_the_next_turn_of_a_conversation_reuses_its_slot(loop) -> None:
    bench = Bench(loop, cells=1000)
    first = bench.submit(prompt(100), 20)
    bench.run()
    turn = [*prompt(100), *bench.tokens[first], *prompt(10, 1)]
    second = bench.submit(turn, 5)
    bench.run()
    assert second.cached_tokens == 119  # the last token sampled was never decoded
    assert bench.tokens[second] == answer(turn, 5)


def test_the_same_prompt_again_decodes_its_last_token_anew(loop) -> None:
    bench = Bench(loop, cells=1000)
    bench.submit(prompt(50), 3)
    bench.run()
    again = bench.submit(prompt(50), 3)
    bench.run()
    assert again.cached_tokens == 49
    assert bench.tokens[again] == answer(prompt(50), 3)


def test_a_prefix_is_copied_from_a_running_request(loop) -> None:
    bench = Bench(loop, cells=1000)
    system = prompt(40)
    one = bench.submit([*system, 1, 2], 30)
    bench.step()
    other = bench.submit([*system, 3], 5)
    bench.run()
    assert other.cached_tokens == 40
    assert bench.tokens[one] == answer([*system, 1, 2], 30)
    assert bench.tokens[other] == answer([*system, 3], 5)


def test_a_prompt_waits_for_a_long_prefix_that_is_on_its_way(loop) -> None:
    bench = Bench(loop, cells=2000)
    jobs = [bench.submit(prompt(200), 5) for _ in range(4)]
    stranger = bench.submit(prompt(10, 1), 5)
    bench.run()
    assert jobs[0].cached_tokens == 0
    assert all(200 - job.cached_tokens <= llama_batching.WORTH_WAITING for job in jobs[1:])
    assert stranger.order == 1  # who needn't wait overtakes
    assert all(bench.tokens[job] == answer(prompt(200), 5) for job in jobs)


def test_two_conversations_on_one_system_prompt_keep_both_tails(loop) -> None:
    bench = Bench(loop, cells=2000)
    system = prompt(60)
    turns = {}
    for seed in (1, 2):
        turns[seed] = [*system, *prompt(50, seed)]
        bench.submit(turns[seed], 2)
        bench.run()
    for turn in turns.values():
        again = bench.submit([*turn, 5, 6], 2)
        bench.run()
        assert again.cached_tokens == len(turn)


def test_without_prefix_reuse_every_prompt_starts_anew(loop) -> None:
    bench = Bench(loop, cells=1000, reuses_prefixes=False)
    for _ in range(3):
        job = bench.submit(prompt(50), 5)
        bench.run()
        assert job.cached_tokens == 0
        assert bench.tokens[job] == answer(prompt(50), 5)
    assert bench.decoder.used == 0


def test_a_cache_that_refuses_to_be_cut_is_filled_anew(loop) -> None:
    bench = Bench(loop, cells=1000)
    bench.decoder.can_trim = False
    bench.submit(prompt(50), 5)
    bench.run()
    job = bench.submit(prompt(50), 5)
    bench.run()
    assert job.cached_tokens == 0
    assert bench.tokens[job] == answer(prompt(50), 5)


def test_idle_prefixes_give_way_least_recently_used_first(loop) -> None:
    bench = Bench(loop, cells=120)
    for seed in (1, 2):
        bench.submit(prompt(40, seed), 1)
        bench.run()
    bench.submit(prompt(60, 3), 1)
    bench.run()
    assert bench.decoder.used == 100
    kept = bench.submit(prompt(40, 2), 1)
    bench.run()
    assert kept.cached_tokens == 39


def test_idle_prefixes_are_capped_but_for_the_last(loop) -> None:
    bench = Bench(loop, cells=1000, idle_cells=100)
    for seed in range(3):
        bench.submit(prompt(60, seed), 1)
        bench.run()
    assert bench.decoder.used == 60
    bench.submit(prompt(300, 9), 1)
    bench.run()
    assert bench.decoder.used == 300


def test_who_does_not_fit_waits_and_is_not_overtaken(loop) -> None:
    bench = Bench(loop, cells=200)
    first = bench.submit(prompt(120, 1), 40)
    bench.step()
    big = bench.submit(prompt(100, 2), 1)
    small = bench.submit(prompt(5, 3), 1)
    bench.run()
    assert first.order < big.order < small.order
    assert not any(isinstance(end, Exception) for end in bench.ends.values())


def test_cells_run_out_while_generating(loop) -> None:
    bench = Bench(loop, cells=100)
    jobs = [bench.submit(prompt(10, seed), 60) for seed in range(4)]
    bench.run()
    for seed, job in enumerate(jobs):
        assert bench.tokens[job] == answer(prompt(10, seed), 60)


def test_a_wait_ends_with_the_first_admission(loop) -> None:
    bench = Bench(loop, cells=60, slots=2)
    jobs = [bench.submit(prompt(10, seed), 30) for seed in range(3)]
    bench.step()
    assert [job.started for job in jobs] == [True, True, False]
    waited = [job.queue_seconds for job in jobs[:2]]
    bench.run()
    assert [job.queue_seconds for job in jobs[:2]] == waited, "also of who had to make room, and came again"
    assert jobs[2].started


def test_the_oldest_is_never_preempted(loop) -> None:
    bench = Bench(loop, cells=100)
    first = bench.submit(prompt(10, 1), 80)
    bench.submit(prompt(10, 2), 80)
    bench.run()
    steps = len(bench.decoder.sizes)
    assert bench.tokens[first] == answer(prompt(10, 1), 80)
    assert steps < 2 * 80 + 10


def test_a_decoder_that_finds_no_cells_is_relieved(loop) -> None:
    bench = Bench(loop, cells=1000)
    jobs = [bench.submit(prompt(10, seed), 20) for seed in range(3)]
    bench.step()
    bench.decoder.failures = [CellsExhausted()] * 2
    bench.run()
    for seed, job in enumerate(jobs):
        assert bench.tokens[job] == answer(prompt(10, seed), 20)


def test_only_a_request_alone_fails_for_want_of_cells(loop) -> None:
    bench = Bench(loop, cells=1000)
    job = bench.submit(prompt(10), 20)
    bench.decoder.failures = [CellsExhausted()]
    bench.run()
    assert isinstance(bench.ends[job], EngineError)
    assert bench.decoder.used == 0


def test_a_failed_decode_fails_its_batch_alone(loop) -> None:
    bench = Bench(loop, cells=1000, slots=2)
    jobs = [bench.submit(prompt(10, seed), 5) for seed in range(3)]
    bench.decoder.failures = [DecodeFailed("out of luck")]
    bench.run()
    assert [str(bench.ends[job]) for job in jobs] == ["out of luck", "out of luck", "length"]
    assert bench.tokens[jobs[2]] == answer(prompt(10, 2), 5)
    assert all(job.sampler.closed for job in jobs)


@pytest.mark.parametrize(("raised", "seen"), [(InvalidRequest("no"), InvalidRequest), (KeyError("x"), EngineError)])
def test_a_failing_sampler_fails_its_own_request(loop, raised: Exception, seen: type[Exception]) -> None:
    class Broken(FakeSampler):
        def next(self, row: int) -> Token | None:
            raise raised

    bench = Bench(loop, cells=1000)
    good = bench.submit(prompt(10), 5)
    bad = Job(prompt(10, 1), 100, Broken(bench.decoder), TokenStream(loop))
    bench.tokens[bad] = []
    bench.scheduler.submit(bad)
    bench.run()
    assert isinstance(bench.ends[bad], seen)
    assert bench.tokens[good] == answer(prompt(10), 5)


def test_the_cancelled_leave_at_the_next_step(loop) -> None:
    bench = Bench(loop, cells=1000, slots=2)
    running, prefilling = bench.submit(prompt(5), 500), bench.submit(prompt(500, 1), 5)
    bench.step()
    queued = bench.submit(prompt(5, 2), 5)
    staying = bench.submit(prompt(6, 3), 5)
    for job in (running, prefilling, queued):
        job.cancelled = True
    bench.step()
    assert bench.scheduler.stats()["slots_busy"] == 1
    assert bench.scheduler.stats()["queued"] == 0
    assert all(job.sampler.closed for job in (running, prefilling, queued))
    bench.run()
    assert bench.tokens[staying] == answer(prompt(6, 3), 5)


def test_fail_all_answers_everybody(loop) -> None:
    bench = Bench(loop, cells=1000, slots=1)
    jobs = [bench.submit(prompt(5, seed), 5) for seed in range(3)]
    bench.step()
    outputs = bench.scheduler.fail_all(EngineError("closed"))
    assert {output.job for output in outputs} == set(jobs)
    assert all(job.sampler.closed for job in jobs)
    assert bench.scheduler.idle


def test_tenants_take_turns_for_slots(loop) -> None:
    bench = Bench(loop, cells=1000, slots=1)
    greedy = [bench.submit(prompt(5, seed), 2, tenant="greedy") for seed in range(5)]
    modest = bench.submit(prompt(5, 9), 2, tenant="modest")
    bench.run()
    assert greedy[0].order < modest.order < greedy[1].order


def test_a_storm_of_requests_leaves_nothing_behind(loop) -> None:
    rng = random.Random(11)
    systems = [prompt(length, 100 + length) for length in (0, 20, 90)]
    for cells, slots in ((150, 6), (400, 3), (5000, 8)):
        archive = {"archive_bytes": rng.choice((0, 3000, 10**6)), "spread_cells": rng.choice((100, 10**6))}
        bench = Bench(loop, cells=cells, slots=slots, idle_cells=rng.choice((0, 50, 10_000)), **archive)
        asked: dict[Job, tuple[list[int], int]] = {}
        for _ in range(400):
            if rng.random() < 0.3 and len(asked) < 120:
                ids = [*rng.choice(systems), *prompt(rng.randint(1, 40), rng.randint(0, 5))]
                count = rng.randint(1, 150 - len(ids) - 1) if len(ids) < 148 else 1
                asked[bench.submit(ids, min(count, 40), tenant=rng.choice("ab"))] = ids, min(count, 40)
            if asked and rng.random() < 0.05:
                rng.choice(list(asked)).cancelled = True
            if not bench.scheduler.idle:
                bench.step()
        bench.run()
        for job, (ids, count) in asked.items():
            if job.cancelled:
                assert bench.tokens[job] == answer(ids, len(bench.tokens[job]))
            else:
                assert bench.tokens[job] == answer(ids, count)
        assert all(job.sampler.closed for job in asked)
        assert bench.scheduler.stats()["slots_busy"] == 0


def test_a_prefix_that_had_to_leave_the_cache_comes_back_from_the_archive(loop) -> None:
    bench = Bench(loop, cells=300, slots=2, archive_bytes=10**6)
    bench.submit(prompt(100, 1), 3)
    bench.run()
    bench.submit(prompt(250, 2), 3)  # needs the cells
    bench.run()
    again = bench.submit([*prompt(100, 1), 5, 6], 3)
    bench.run()
    assert again.cached_tokens == 100
    assert bench.tokens[again] == answer([*prompt(100, 1), 5, 6], 3)


def test_a_cache_in_which_many_ran_is_emptied_into_the_archive_when_nobody_runs(loop) -> None:
    bench = Bench(loop, cells=1000, spread_cells=150, archive_bytes=10**6)
    bench.submit(prompt(100, 1), 3)
    bench.run()
    assert bench.decoder.used > 100, "one conversation stays where it is"
    jobs = [bench.submit(prompt(60, seed), 3) for seed in (2, 3)]
    bench.run()
    assert bench.decoder.used == 0
    assert len(bench.slots.archive) == 3
    again = bench.submit([*prompt(60, 2), *bench.tokens[jobs[0]], 7], 2)
    bench.run()
    assert again.cached_tokens == 62
    assert bench.tokens[again] == answer(again.ids[:64], 2)


def test_without_room_an_archived_prefix_stays_where_it_is(loop) -> None:
    bench = Bench(loop, cells=200, slots=2, spread_cells=0, archive_bytes=10**6)
    bench.submit(prompt(150, 1), 3)
    bench.run()
    big = bench.submit(prompt(100, 2), 60)
    bench.step()
    again = bench.submit(prompt(150, 1), 2)
    bench.run()
    assert bench.tokens[big] == answer(prompt(100, 2), 60)
    assert bench.tokens[again] == answer(prompt(150, 1), 2)


# ---- pictures --------------------------------------------------------------------------------------------------------


def picture(length: int, seed: int) -> list[int]:
    return random.Random(1000 + seed).choices(range(256), k=length)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("shape", [(5, 30, 7), (0, 64, 1), (70, 100, 70, 3, 5), (10, 90), (3, 1), (2, 20, 0, 20, 9)])
def test_pictures_stand_where_tokens_could(loop, shape: tuple[int, ...], causal: bool) -> None:
    bench = Bench(loop, cells=1000, capacity=128)
    pieces = [picture(length, seed) if seed % 2 else prompt(length, seed) for seed, length in enumerate(shape)]
    jobs = [bench.submit_with_media(pieces, 5, causal=causal) for _ in range(2)]
    texts = [bench.submit(prompt(length, 9), 5) for length in (20, 80)]
    bench.run()
    expected = answer([item for piece in pieces for item in piece], 5)
    assert [bench.tokens[job] for job in jobs] == [expected] * 2
    assert [bench.tokens[job] for job in texts] == [answer(prompt(length, 9), 5) for length in (20, 80)]


def test_a_picture_goes_alone_and_in_chunks_where_it_may(loop) -> None:
    bench = Bench(loop, cells=2000, capacity=100)
    bench.submit_with_media([prompt(10), picture(164, 1), prompt(10, 2)], 1)
    bench.submit(prompt(20, 3), 1)
    bench.run()
    assert bench.decoder.sizes == [10 + 20, 70, 94, 10]


def test_a_picture_that_is_read_as_a_whole_waits_for_as_many_cells(loop) -> None:
    bench = Bench(loop, cells=130, capacity=128)
    talker = bench.submit(prompt(20), 60)
    bench.step()
    reader = bench.submit_with_media([prompt(3, 1), picture(90, 1), prompt(3, 2)], 5, causal=False)
    bench.run()
    assert bench.tokens[talker] == answer(prompt(20), 60)
    assert bench.tokens[reader] == answer([*prompt(3, 1), *picture(90, 1), *prompt(3, 2)], 5)


def test_a_picture_is_reused_as_a_whole_or_not_at_all(loop) -> None:
    bench = Bench(loop, cells=2000, capacity=64)
    head, tail = prompt(10), prompt(10, 2)
    bench.submit_with_media([head, picture(150, 1), tail], 1)
    bench.run()
    same = bench.submit_with_media([head, picture(150, 1), prompt(10, 3)], 1)
    bench.run()
    other = bench.submit_with_media([head, picture(150, 2), tail], 1)
    bench.run()
    ending = bench.submit_with_media([head, picture(150, 1)], 1)
    bench.run()
    assert [job.cached_tokens for job in (same, other, ending)] == [160, 10, 10]


def test_who_leaves_in_the_middle_of_a_picture_leaves_none_of_it(loop) -> None:
    bench = Bench(loop, cells=2000, capacity=64)
    pieces = [prompt(40), picture(500, 1), prompt(10, 2)]
    leaving = bench.submit_with_media(pieces, 1)
    talker = bench.submit(prompt(5, 4), 50)
    while bench.decoder.used < 250:
        bench.step()
    leaving.cancelled = True
    bench.step()
    again = bench.submit_with_media(pieces, 3)
    bench.run()
    assert again.cached_tokens == 40
    assert bench.tokens[again] == answer([item for piece in pieces for item in piece], 3)
    assert bench.tokens[talker] == answer(prompt(5, 4), 50)


def test_a_storm_of_pictures_leaves_nothing_behind(loop) -> None:
    rng = random.Random(5)
    for cells, causal in ((300, True), (300, False), (3000, True)):
        bench = Bench(loop, cells=cells, capacity=128, archive_bytes=rng.choice((0, 10**6)), spread_cells=200)
        asked: dict[Job, list[int]] = {}
        for _ in range(300):
            if rng.random() < 0.3 and len(asked) < 80:
                pieces = [prompt(rng.randint(0, 40), rng.randint(0, 3)), picture(rng.randint(1, 90), rng.randint(0, 3))]
                pieces.append(prompt(rng.randint(1, 20), rng.randint(0, 3)))
                asked[bench.submit_with_media(pieces, 10, causal=causal)] = [item for piece in pieces for item in piece]
            if asked and rng.random() < 0.05:
                rng.choice(list(asked)).cancelled = True
            if not bench.scheduler.idle:
                bench.step()
        bench.run()
        for job, ids in asked.items():
            assert bench.tokens[job] == answer(ids, len(bench.tokens[job]))
            assert job.cancelled or len(bench.tokens[job]) == 10
            assert job.sampler.closed
