"""Quotas outlive the process that keeps them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import select

from api import quota_keeper as module
from api.quota_keeper import QuotaKeeper
from api.quotas import LeaseRequest
from api.records import QuotaRow, Records
from deployments.errors import NotReady
from deployments.states import Settlement
from tests.unit.waiting import until

ASKED = LeaseRequest("k", {"requests": 3}, [{"requests": 1}])

Make = Callable[[], Awaitable[QuotaKeeper]]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/manta.db"


@pytest.fixture
async def make(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Make]:
    monkeypatch.setattr(module, "SAVE_S", 0.01)
    made: list[QuotaKeeper] = []

    async def build() -> QuotaKeeper:
        made.append(QuotaKeeper(Records(url)))
        return made[-1]

    yield build
    for keeper in made:
        with suppress(NotReady):
            await keeper.close()


async def stored(url: str) -> dict[tuple[str, str], int]:
    records = Records(url)
    try:
        rows = await records.run(lambda session: list(session.scalars(select(QuotaRow))))
        return {(row.key, row.resource): sum(row.sums.values()) for row in rows}
    finally:
        records.close()


async def saved(url: str, amount: int) -> None:
    for _ in range(1000):
        if (await stored(url)).get(("k", "requests")) == amount:
            return
    raise AssertionError(await stored(url))


async def test_a_killed_keeper_s_successor_knows_what_it_lent(make: Make, url: str) -> None:
    first = await make()
    for _ in range(3):
        assert (await first.lease(ASKED)).granted == [True]
    await saved(url, 3)
    second = await make()  # the first never got to say good-bye
    assert (await second.lease(ASKED)).granted == [False]
    assert await second.used() == {"k": {"requests": 3}}


async def test_a_keeper_that_ends_writes_what_it_has_not_yet(
    make: Make, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SAVE_S", 60.0)
    keeper = await make()
    await keeper.lease(ASKED)
    await saved(url, 1)
    second = (await keeper.lease(ASKED)).second
    await keeper.lease(ASKED)
    keeper.settle([Settlement("k", "requests", second, 1)])
    await keeper.close()
    assert await stored(url) == {("k", "requests"): 2}


async def test_what_has_left_the_window_is_forgotten(make: Make, url: str) -> None:
    records = Records(url)
    await records.run(lambda session: session.add(QuotaRow(key="k", resource="requests", sums={"1700000000": 3})))
    records.close()
    keeper = await make()
    assert await keeper.used() == {}
    assert await stored(url) == {}


async def test_while_the_database_is_away_nothing_is_lent_and_then_all_is_well(
    make: Make, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocker = tmp_path / "manta.db"
    blocker.mkdir()
    keeper = await make()
    await until(lambda: "quotas can't be read" in caplog.text)
    blocker.rmdir()
    assert (await keeper.lease(ASKED)).granted == [True]
    await saved(url, 1)


async def test_what_could_not_be_written_is_written_later(
    make: Make, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = await make()
    await keeper.used()
    run = keeper._records.run

    async def broken(_: object) -> None:
        raise NotReady("no database")

    monkeypatch.setattr(keeper._records, "run", broken)
    await keeper.lease(ASKED)
    await until(lambda: "quotas can't be written" in caplog.text)
    monkeypatch.setattr(keeper._records, "run", run)
    await saved(url, 1)
