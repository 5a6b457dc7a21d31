"""Several ingresses, one controller: what they let through together."""

import asyncio
import random
from collections.abc import Callable

import pytest

from api.keys import Key, Role
from api.quota_leases import REFUSED_S, QuotaLeases
from api.quota_windows import KEPT_S, QuotaWindows
from api.quotas import LEASE_S, Lease, LeaseRequest
from deployments.errors import DeadlineExceeded, NotReady, RateLimited
from deployments.states import Report
from tests.unit.waiting import until

START = 1_700_000_000.0


def key(**limits: int) -> Key:
    return Key("Jim", Role.USER, "j" * 12, limits=limits)


class Cluster:
    """Ingresses and a controller that share a clock which the test sets."""

    def __init__(self, ingresses: int = 1) -> None:
        self.now = START
        self.windows = QuotaWindows(self.clock)
        self.calls: list[LeaseRequest] = []
        self.hold: asyncio.Event | None = None
        """Set: the controller answers when it is."""
        self.error: Exception | None = None
        self.ingresses = [QuotaLeases(self.lease, self.clock) for _ in range(ingresses)]

    def clock(self) -> float:
        return self.now

    async def lease(self, request: LeaseRequest) -> Lease:
        self.calls.append(request)
        if self.hold:
            await self.hold.wait()
        if self.error:
            raise self.error
        return self.windows.lease(request)

    def sync(self, *, lost: bool = False) -> None:
        """Every ingress reports. `lost`: the controller hears nothing."""
        for ingress in self.ingresses:
            report = Report("i")
            arrived = ingress.report(report)
            if not lost:
                self.windows.settle(report.settled)
                arrived()

    def used(self) -> dict[str, int]:
        return dict(self.windows.used().get("j" * 12, {}))


async def taken(ingress: QuotaLeases, key: Key, **need: int) -> bool:
    try:
        await ingress.take(key, need)
    except RateLimited:
        return False
    return True


async def test_a_small_limit_is_exact_over_two_ingresses() -> None:
    cluster, jim = Cluster(2), key(requests=3)
    outcomes = [await taken(cluster.ingresses[n % 2], jim, requests=1) for n in range(4)]
    assert outcomes == [True, True, True, False]
    cluster.now += KEPT_S
    outcomes = await asyncio.gather(*(taken(cluster.ingresses[n % 2], jim, requests=1) for n in range(10)))
    assert sum(outcomes) == 3


async def test_requests_of_a_key_wait_together() -> None:
    cluster, jim = Cluster(), key(requests=5)
    (ingress,) = cluster.ingresses
    cluster.hold = asyncio.Event()
    waiting = [asyncio.create_task(taken(ingress, jim, requests=1)) for _ in range(8)]
    await until(lambda: cluster.calls)
    cluster.hold.set()
    assert sum(await asyncio.gather(*waiting)) == 5
    assert len(cluster.calls) == 1


async def test_what_was_lent_ahead_costs_no_call_and_goes_back() -> None:
    cluster, jim = Cluster(), key(requests=1000)
    (ingress,) = cluster.ingresses
    for _ in range(10):
        assert await taken(ingress, jim, requests=1)
    assert len(cluster.calls) == 1
    assert await taken(ingress, jim, requests=1)
    assert len(cluster.calls) == 2
    assert cluster.used() == {"requests": 20}
    cluster.sync()
    assert cluster.used() == {"requests": 20}, "it may be needed yet"
    cluster.now += LEASE_S
    cluster.sync()
    assert cluster.used() == {"requests": 11}
    cluster.sync()
    assert cluster.used() == {"requests": 11}
    assert await taken(ingress, jim, requests=1)
    assert len(cluster.calls) == 3


async def test_a_report_that_is_lost_is_sent_again() -> None:
    cluster, jim = Cluster(), key(tokens=100)
    (ingress,) = cluster.ingresses
    second = await ingress.take(jim, {"tokens": 100})
    ingress.settle(jim, "tokens", second, 60)
    cluster.sync(lost=True)
    ingress.settle(jim, "tokens", second, 10)
    cluster.sync()
    assert cluster.used() == {"tokens": 30}
    cluster.sync()
    assert cluster.used() == {"tokens": 30}


async def test_what_ends_while_a_report_is_on_its_way_is_in_the_next() -> None:
    cluster, jim = Cluster(), key(tokens=100)
    (ingress,) = cluster.ingresses
    second = await ingress.take(jim, {"tokens": 100})
    ingress.settle(jim, "tokens", second, 60)
    report = Report("i")
    arrived = ingress.report(report)
    ingress.settle(jim, "tokens", second, 5)
    cluster.windows.settle(report.settled)
    arrived()
    cluster.sync()
    assert cluster.used() == {"tokens": 35}


async def test_who_calls_in_a_tight_loop_is_refused_without_a_call() -> None:
    cluster, jim = Cluster(), key(requests=1)
    (ingress,) = cluster.ingresses
    assert await taken(ingress, jim, requests=1)
    for _ in range(20):
        assert not await taken(ingress, jim, requests=1)
    assert len(cluster.calls) == 2
    cluster.now += REFUSED_S
    assert not await taken(ingress, jim, requests=1)
    assert len(cluster.calls) == 3


async def test_a_refusal_says_when_to_come_back() -> None:
    cluster, jim = Cluster(), key(requests=1)
    (ingress,) = cluster.ingresses
    await ingress.take(jim, {"requests": 1})
    cluster.now += 12
    with pytest.raises(RateLimited, match="1 requests per minute") as raised:
        await ingress.take(jim, {"requests": 1})
    assert raised.value.retry_after == KEPT_S - 12
    assert ingress.remaining(jim) == {"requests": 0}


async def test_without_the_controller_nobody_passes_and_all_are_told() -> None:
    cluster, jim = Cluster(), key(requests=10)
    (ingress,) = cluster.ingresses
    cluster.error = DeadlineExceeded("the model controller did not answer within 60 s")
    outcomes = await asyncio.gather(*(ingress.take(jim, {"requests": 1}) for _ in range(3)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotReady] * 3
    assert len({id(outcome) for outcome in outcomes}) == 3
    assert all(isinstance(outcome, NotReady) and outcome.retry_after for outcome in outcomes)
    cluster.error = None
    assert await taken(ingress, jim, requests=1)


async def test_what_was_granted_to_a_client_who_left_goes_back() -> None:
    cluster, jim = Cluster(), key(requests=3)
    (ingress,) = cluster.ingresses
    cluster.hold = asyncio.Event()
    leaving = asyncio.create_task(taken(ingress, jim, requests=1))
    await until(lambda: cluster.calls)
    leaving.cancel()
    staying = asyncio.create_task(taken(ingress, jim, requests=1))
    await asyncio.sleep(0)
    cluster.hold.set()
    assert await staying
    cluster.sync()
    assert cluster.used() == {"requests": 1}


async def test_a_limit_that_changed_holds_from_the_next_request_on() -> None:
    cluster = Cluster()
    (ingress,) = cluster.ingresses
    assert await taken(ingress, key(requests=1000), requests=1)
    assert not await taken(ingress, key(requests=1), requests=1)
    assert not await taken(ingress, key(requests=1), requests=1)
    assert await taken(ingress, key(tokens=5), tokens=1)
    cluster.sync()
    assert cluster.used() == {"requests": 1, "tokens": 1}


# ---- saturated -------------------------------------------------------------------------------------------------------


class Load:
    """Clients of three ingresses that want more than a key allows, for some minutes of the test's clock."""

    def __init__(self, seed: int, limits: dict[str, int], need: Callable[[random.Random], dict[str, int]]) -> None:
        self.chance = random.Random(seed)
        self.cluster = Cluster(3)
        self.key = key(**limits)
        self.need = need
        self.uses: list[tuple[float, dict[str, int]]] = []
        """When, and how much really."""

    async def run(self, minutes: float, per_second: float, *, killed: float = 0.0) -> None:
        """`killed`: how likely it is in each second that an ingress is lost with all that it holds."""
        cluster, end, next_sync = self.cluster, self.cluster.now + 60 * minutes, self.cluster.now + 1
        while cluster.now < end:
            cluster.now += self.chance.expovariate(per_second)
            if cluster.now >= next_sync:
                cluster.sync()
                next_sync = cluster.now + 1
                if self.chance.random() < killed:
                    cluster.ingresses[self.chance.randrange(3)] = QuotaLeases(cluster.lease, cluster.clock)
            need, ingress = self.need(self.chance), self.chance.choice(cluster.ingresses)
            try:
                second = await ingress.take(self.key, need)
            except RateLimited:
                continue
            used = dict(need)
            if "tokens" in need:  # the estimate was too high, mostly
                used["tokens"] = int(need["tokens"] * self.chance.uniform(0.2, 1.1))
                ingress.settle(self.key, "tokens", second, need["tokens"] - used["tokens"])
            self.uses.append((cluster.now, used))

    def in_windows(self, resource: str, minutes: float) -> list[int]:
        """What was used in each minute, one beginning every second."""
        starts = [START + second for second in range(int(60 * (minutes - 1)))]
        return [sum(use[resource] for at, use in self.uses if start <= at < start + 60) for start in starts]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("limit", [20, 100, 1500])
async def test_saturated_requests_land_within_a_tenth(limit: int, seed: int) -> None:
    load = Load(seed, {"requests": limit}, lambda chance: {"requests": 1})
    await load.run(4, per_second=limit / 60 * 4)
    minutes = load.in_windows("requests", 4)
    assert max(minutes) <= limit * (1.1 if limit >= 100 else 1.0)
    assert sum(minutes) / len(minutes) >= limit * 0.9


@pytest.mark.parametrize("seed", range(4))
async def test_saturated_tokens_land_within_a_tenth(seed: int) -> None:
    load = Load(seed, {"tokens": 20_000}, lambda chance: {"tokens": chance.randint(50, 600)})
    await load.run(4, per_second=4)
    minutes = load.in_windows("tokens", 4)
    assert max(minutes) <= 22_000
    assert sum(minutes) / len(minutes) >= 18_000


@pytest.mark.parametrize("seed", range(4))
async def test_killed_ingresses_let_nothing_more_through(seed: int) -> None:
    load = Load(seed, {"requests": 300}, lambda chance: {"requests": 1})
    await load.run(3, per_second=10, killed=0.1)
    minutes = load.in_windows("requests", 3)
    assert sum(minutes) / len(minutes) >= 300 * 0.8
    assert max(minutes) <= 300 * 1.1
