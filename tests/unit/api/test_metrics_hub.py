"""The controller's sums: processes come, overtake themselves, fall silent and die, and no counter goes back."""

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from api import metrics_hub
from api.metrics_hub import DEAD_S, SILENT_S, MetricsHub
from api.metrics_store import MetricsStore
from deployments.errors import NotReady
from deployments.samples import Key, Snapshot
from gallery.database import Database
from tests.unit.waiting import until

TOKENS: Key = "manta_completion_tokens_total", (("model", "a"),)
BUCKET: Key = "manta_request_seconds_bucket", (("model", "a"), ("task", "chat"), ("le", "0.5"))
WAITING: Key = "manta_queue_length", (("model", "a"), ("replica", "x"))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path) -> MetricsStore:
    return MetricsStore(Database(f"sqlite:///{tmp_path}/manta.db"))


@asynccontextmanager
async def running(store: MetricsStore, clock: Clock) -> AsyncGenerator[MetricsHub, None]:
    """A hub that has read what was stored. At the end it is killed: nothing more is stored."""
    hub = MetricsHub(store, clock)
    hub.start()
    await until(lambda: hub._read)
    try:
        yield hub
    finally:
        hub._unsaved.clear()
        await hub.stop()


async def test_processes_add_up_and_the_silent_keep_their_counts(store: MetricsStore, clock: Clock) -> None:
    async with running(store, clock) as hub:
        hub.take(Snapshot("p", 1, {TOKENS: 5.0, BUCKET: 1.0, WAITING: 3.0}))
        hub.take(Snapshot("q", 1, {TOKENS: 7.0}))
        assert await hub.total() == {TOKENS: 12.0, BUCKET: 1.0, WAITING: 3.0}
        clock.now += SILENT_S / 2
        hub.take(Snapshot("q", 2, {TOKENS: 8.0}))
        clock.now += SILENT_S * 0.6
        assert await hub.total() == {TOKENS: 13.0, BUCKET: 1.0}, "p is silent"
        hub.take(Snapshot("p", 2, {TOKENS: 6.0, BUCKET: 1.0, WAITING: 1.0}))
        assert await hub.total() == {TOKENS: 14.0, BUCKET: 1.0, WAITING: 1.0}, "p was only slow"


async def test_a_snapshot_that_was_overtaken_is_dropped(store: MetricsStore, clock: Clock) -> None:
    async with running(store, clock) as hub:
        hub.take(Snapshot("p", 2, {TOKENS: 5.0}))
        hub.take(Snapshot("p", 1, {TOKENS: 4.0}))
        assert await hub.total() == {TOKENS: 5.0}


async def test_the_dead_are_buried_and_counted_on(store: MetricsStore, clock: Clock) -> None:
    async with running(store, clock) as hub:
        hub.take(Snapshot("p", 1, {TOKENS: 5.0, WAITING: 1.0}))
        hub.take(Snapshot("q", 1, {TOKENS: 7.0}))
        await hub.save()
        clock.now += DEAD_S + 1
        hub.take(Snapshot("r", 1, {TOKENS: 1.0}))
        hub.bury()
        assert await hub.total() == {TOKENS: 13.0}
        assert {snapshot.source for snapshot in store.load()} == {"", "r"}, "one row for all of them"
        clock.now += DEAD_S + 1
        hub.bury()
        assert await hub.total() == {TOKENS: 13.0}
    async with running(store, clock) as hub:
        assert await hub.total() == {TOKENS: 13.0}


async def test_what_was_shown_outlives_the_controller(store: MetricsStore, clock: Clock) -> None:
    async with running(store, clock) as hub:
        hub.take(Snapshot("p", 1, {TOKENS: 5.0, WAITING: 2.0}))
        await hub.total()
        hub.take(Snapshot("p", 2, {TOKENS: 6.0}))
    async with running(store, clock) as hub:
        assert await hub.total() == {TOKENS: 5.0}, "without gauges; what nobody saw may be lost with its process"
        hub.take(Snapshot("p", 2, {TOKENS: 6.0}))
        assert await hub.total() == {TOKENS: 6.0}, "which tells all when it lives"


async def test_nothing_is_shown_before_the_past_is_known(
    store: MetricsStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.load()
    store.save([Snapshot("p", 1, {TOKENS: 5.0})], [])
    monkeypatch.setattr(metrics_hub, "SAVE_S", 0.01)
    asked: list[str] = []

    def away() -> list[Snapshot]:
        asked.append("load")
        raise NotReady("no database")

    monkeypatch.setattr(store, "load", away)
    hub = MetricsHub(store, clock)
    hub.start()
    hub.take(Snapshot("q", 1, {TOKENS: 1.0}))
    await until(lambda: len(asked) > 1)
    with pytest.raises(NotReady, match="not been read yet"):
        await hub.total()
    monkeypatch.undo()
    await until(lambda: hub._read)
    assert await hub.total() == {TOKENS: 6.0}
    await hub.stop()


async def test_a_database_that_is_away_stops_no_scrape(
    store: MetricsStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(store, clock) as hub:
        save, failing = store.save, [True]

        def sometimes(snapshots: list[Snapshot], gone: set[str]) -> None:
            if failing:
                raise NotReady("no database")
            save(snapshots, gone)

        monkeypatch.setattr(store, "save", sometimes)
        hub.take(Snapshot("p", 1, {TOKENS: 5.0}))
        assert await hub.total() == {TOKENS: 5.0}
        clock.now += DEAD_S + 1
        hub.bury()
        assert await hub.total() == {TOKENS: 5.0}
        failing.clear()
        assert await hub.total() == {TOKENS: 5.0}
        assert store.load() == [Snapshot("", 0, {TOKENS: 5.0})], "stored when it could be"


async def test_changes_are_stored_though_nobody_scrapes(
    store: MetricsStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_hub, "SAVE_S", 0.01)
    async with running(store, clock) as hub:
        hub.take(Snapshot("p", 1, {TOKENS: 5.0}))
        await until(lambda: store.load() == [Snapshot("p", 1, {TOKENS: 5.0})])


@pytest.mark.parametrize("seed", range(5))
async def test_no_schedule_of_kills_makes_a_counter_go_back(store: MetricsStore, clock: Clock, seed: int) -> None:
    """Processes and the controller are killed at random; snapshots are late, and some are lost."""
    chance = random.Random(seed)
    counted: dict[str, float] = {}  # of processes that live
    late: list[Snapshot] = []
    shown, number, lives = 0.0, 0, 0
    for _ in range(8):
        async with running(store, clock) as hub:
            for _ in range(chance.randrange(20, 60)):
                clock.now += chance.choice((0.1, 1.0, SILENT_S, DEAD_S / 10))
                number += 1
                if len(counted) < 3:
                    lives += 1
                    counted[f"p{lives}"] = 0.0
                process = chance.choice(sorted(counted))
                match chance.randrange(6):
                    case 0:
                        del counted[process]
                        late = [snapshot for snapshot in late if snapshot.source != process]
                    case 1:
                        hub.take(late.pop(chance.randrange(len(late)))) if late else hub.bury()
                    case 2:
                        late.append(Snapshot(process, number, {TOKENS: counted[process]}))
                    case _:
                        counted[process] += chance.randrange(9)
                        hub.take(Snapshot(process, number, {TOKENS: counted[process]}))
                for process in counted:  # none is silent for as long as the dead are
                    hub.take(Snapshot(process, -2, {}))
                if chance.random() < 0.5:
                    total = (await hub.total()).get(TOKENS, 0.0)
                    assert total >= shown
                    shown = total


async def test_one_that_was_taken_for_dead_too_early_loses_nothing(store: MetricsStore, clock: Clock) -> None:
    async with running(store, clock) as hub:
        hub.take(Snapshot("p", 1, {TOKENS: 10.0}))
        await hub.total()
        clock.now += DEAD_S + 1
        hub.bury()
        hub.take(Snapshot("p", 2, {TOKENS: 11.0}))  # it was only paused, and is back before anything is stored
        shown = await hub.total()
    async with running(store, clock) as hub:
        assert await hub.total() == shown
