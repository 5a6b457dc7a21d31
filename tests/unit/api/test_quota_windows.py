"""The sliding minute of a key's quota."""

import random

import pytest

from api.quota_windows import KEPT_S, QuotaWindows
from api.quotas import Lease, LeaseRequest
from deployments.states import Settlement

START = 1_700_000_000.0


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def windows(clock: Clock) -> QuotaWindows:
    return QuotaWindows(clock)


def lease(windows: QuotaWindows, *needs: int, limit: int = 10, key: str = "k") -> Lease:
    return windows.lease(LeaseRequest(key, {"requests": limit}, [{"requests": need} for need in needs]))


def test_all_of_a_limit_and_no_more(windows: QuotaWindows) -> None:
    assert lease(windows, *[1] * 12).granted == [True] * 10 + [False] * 2
    assert lease(windows, 1, key="other").granted == [True]


def test_a_limit_is_free_again_when_its_minute_is_over(windows: QuotaWindows, clock: Clock) -> None:
    lease(windows, *[1] * 4)
    clock.now += 20
    lease(windows, *[1] * 6)
    refused = lease(windows, 1)
    assert (refused.granted, refused.exhausted, refused.retry_after) == ([False], "requests", KEPT_S - 20)
    assert lease(windows, 5).retry_after == KEPT_S, "five have to go, and the first four are not enough"
    clock.now += KEPT_S - 20 - 0.001
    assert lease(windows, 1).granted == [False]
    clock.now += 0.001
    assert lease(windows, *[1] * 5).granted == [True] * 4 + [False]


def test_a_small_request_goes_on_where_a_large_one_can_t(windows: QuotaWindows) -> None:
    assert lease(windows, 6, 6, 4).granted == [True, False, True]


def test_all_resources_of_a_request_or_none(windows: QuotaWindows) -> None:
    limits = {"requests": 10, "tokens": 100}
    answer = windows.lease(LeaseRequest("k", limits, [{"requests": 1, "tokens": 90}, {"requests": 1, "tokens": 20}]))
    assert answer.granted == [True, False]
    assert answer.exhausted == "tokens"
    assert windows.used() == {"k": {"requests": 1, "tokens": 90}}


def test_a_hundredth_is_lent_ahead_and_none_of_a_small_limit(windows: QuotaWindows) -> None:
    assert lease(windows, 1, limit=99).ahead == {"requests": 0}
    assert lease(windows, 1, limit=1000, key="b").ahead == {"requests": 9}
    assert lease(windows, *[1] * 50, limit=1000, key="c").ahead == {"requests": 0}
    assert lease(windows, *[1] * 995, limit=1000, key="d").ahead == {"requests": 0}
    lease(windows, 995, limit=1000, key="e")
    assert lease(windows, 1, limit=1000, key="e").ahead == {"requests": 4}
    assert windows.used()["e"] == {"requests": 1000}


def test_what_comes_back_can_be_lent_again(windows: QuotaWindows, clock: Clock) -> None:
    second = lease(windows, 10).second
    clock.now += 5
    windows.settle([Settlement("k", "requests", second, 3)])
    assert lease(windows, *[1] * 4).granted == [True] * 3 + [False]
    windows.settle([Settlement("k", "requests", second, 100), Settlement("k", "requests", second - 1, 100)])
    assert windows.used() == {"k": {"requests": 3}}, "no more comes back than was lent"


def test_more_than_was_lent_counts_from_now_on(windows: QuotaWindows, clock: Clock) -> None:
    second = lease(windows, 5).second
    clock.now += 30
    windows.settle([Settlement("k", "requests", second, -7)])
    refused = lease(windows, 1)
    assert refused.granted == [False]
    assert refused.remaining == {"requests": -2}
    assert refused.retry_after == KEPT_S - 30, "then the first five have gone, and seven of ten are left"


def test_a_limit_may_change(windows: QuotaWindows) -> None:
    lease(windows, *[1] * 10)
    assert lease(windows, 1, limit=5).granted == [False]
    assert lease(windows, 1, limit=11).granted == [True]


def test_another_life_goes_on_with_the_account(windows: QuotaWindows, clock: Clock) -> None:
    lease(windows, *[1] * 7)
    saved = windows.changes()
    assert saved == {("k", "requests"): {int(START): 7}}
    assert windows.changes() == {}
    clock.now += 10
    successor = QuotaWindows(clock)
    successor.settle([Settlement("k", "requests", 0, -1)])  # a report may come before the account has been read
    successor.restore(saved)
    assert lease(successor, *[1] * 3).granted == [True, True, False]
    clock.now += KEPT_S - 10
    assert lease(successor, *[1] * 8).granted == [True] * 7 + [False]


def test_seconds_to_come_do_not_outlast_a_clock_that_was_set_back(windows: QuotaWindows, clock: Clock) -> None:
    windows.restore({("k", "requests"): {int(START) + 3600: 10}})
    assert lease(windows, 1).granted == [False]
    clock.now += KEPT_S
    assert lease(windows, 1).granted == [True]


@pytest.mark.parametrize("seed", range(20))
def test_no_minute_holds_more_than_the_limit(windows: QuotaWindows, clock: Clock, seed: int) -> None:
    """Whatever comes when: requests that are used where they are lent."""
    chance = random.Random(seed)
    limit, uses = chance.choice([1, 3, 17, 60]), list[float]()
    for _ in range(400):
        clock.now += chance.expovariate(chance.choice([0.1, 1, 10]))
        uses += [clock.now] * sum(lease(windows, *[1] * chance.randint(1, 5), limit=limit).granted)
    for first in uses:
        assert sum(first <= use < first + 60 for use in uses) <= limit
