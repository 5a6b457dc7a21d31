"""What this ingress may use of the quotas of API keys: lent by the controller, used here, the rest given back."""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from copy import copy
from dataclasses import dataclass, field

from api.keys import Key
from api.quotas import LEASE_S, Amounts, Lease, LeaseRequest
from deployments.errors import DeadlineExceeded, NotReady, RateLimited
from deployments.metrics import RATE_LIMITED
from deployments.states import Report, Settlement

REFUSED_S = 0.1
"""After a refusal the controller is not asked again for so long: who calls over its limit may call in a tight loop."""

RETRY_S = 5.0
"""What a client is told to wait when the controller does not answer."""


@dataclass(slots=True)
class _Waiting:
    need: Amounts
    second: asyncio.Future[int]


@dataclass(slots=True)
class _Held:
    """What this ingress holds of one key's quotas."""

    key: Key
    lease: Lease = field(default_factory=lambda: Lease(0, []))
    until: float = 0.0
    """When what was lent ahead goes back, by the monotonic clock."""
    refused_until: float = 0.0
    waiting: list[_Waiting] = field(default_factory=list)
    asking: asyncio.Task[None] | None = None

    def take(self, need: Amounts, now: float) -> bool:
        ahead = self.lease.ahead
        if now >= self.until or any(ahead.get(resource, 0) < amount for resource, amount in need.items()):
            return False
        self.lease.ahead = {resource: left - need.get(resource, 0) for resource, left in ahead.items()}
        return True


class QuotaLeases:
    """The quotas, as requests use them."""

    def __init__(
        self, lease: Callable[[LeaseRequest], Awaitable[Lease]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`lease` asks the controller."""
        self._lease = lease
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._settled: Counter[tuple[str, str, int]] = Counter()
        """(tenant, resource, second) → what goes back."""

    async def take(self, key: Key, need: Amounts) -> int:
        """Take what a request needs; the second it counts for. `need` holds nothing without limit.

        Waits for the controller where nothing is held, together with all requests of the key. Raises RateLimited, and
        NotReady when the controller does not answer.
        """
        held, now = self._of(key), self._clock()
        if held.take(need, now):
            return held.lease.second
        if now < held.refused_until:
            raise _refusal(held)
        waiting = _Waiting(need, asyncio.get_running_loop().create_future())
        held.waiting.append(waiting)
        held.asking = held.asking or asyncio.create_task(self._ask(held), name=f"quotas of {key.name}")
        return await waiting.second

    def settle(self, key: Key, resource: str, second: int, amount: int) -> None:
        """Give back what was not used of what was taken; negative: more was used."""
        self._settled[key.tenant, resource, second] += amount

    def remaining(self, key: Key) -> dict[str, int]:
        """Resource → what is left of the limit, as far as is known here."""
        lease = self._of(key).lease
        return {resource: left + lease.ahead.get(resource, 0) for resource, left in lease.remaining.items()}

    def report(self, report: Report) -> Callable[[], None]:
        """Put what goes back into the report. Returns what is to be called once the controller has it."""
        now = self._clock()
        for held in self._held.values():
            if now >= held.until:
                self._give_back(held)
        sent = {settled: amount for settled, amount in self._settled.items() if amount}
        report.settled = [Settlement(*settled, amount) for settled, amount in sent.items()]

        def delivered() -> None:
            self._settled.subtract(sent)
            self._settled = Counter({settled: amount for settled, amount in self._settled.items() if amount})

        return delivered

    def _of(self, key: Key) -> _Held:
        held = self._held.get(key.tenant)
        if held and held.key.limits == key.limits:
            return held
        if held:
            self._give_back(held)
        self._held[key.tenant] = held = _Held(key)
        return held

    async def _ask(self, held: _Held) -> None:
        """One call at a time, for all who wait."""
        key = held.key
        try:
            while waiting := [one for one in held.waiting if not one.second.done()]:
                held.waiting, asked = [], self._clock()
                try:
                    lease = await self._lease(LeaseRequest(key.tenant, key.limits, [one.need for one in waiting]))
                except Exception as error:  # noqa: BLE001 – each who waits is told
                    _fail(waiting, error)
                    continue
                self._give_back(held)
                held.lease, held.until = lease, asked + LEASE_S
                held.refused_until = self._clock() + REFUSED_S if lease.exhausted else 0.0
                for one, granted in zip(waiting, lease.granted, strict=True):
                    self._tell(held, one, granted=granted)
        finally:
            held.asking = None

    def _tell(self, held: _Held, one: _Waiting, *, granted: bool) -> None:
        if not granted and not one.second.done():
            one.second.set_exception(_refusal(held))
        elif granted and not one.second.done():
            one.second.set_result(held.lease.second)
        elif granted:  # its client has left
            for resource, amount in one.need.items():
                self.settle(held.key, resource, held.lease.second, amount)

    def _give_back(self, held: _Held) -> None:
        for resource, left in held.lease.ahead.items():
            self.settle(held.key, resource, held.lease.second, left)
        held.lease.ahead = {}


def _refusal(held: _Held) -> RateLimited:
    key, lease = held.key, held.lease
    RATE_LIMITED.labels(key.name, lease.exhausted).inc()
    limit = key.limits[lease.exhausted]
    return RateLimited(f"The API key may use {limit} {lease.exhausted} per minute, and has.").after(lease.retry_after)


def _fail(waiting: list[_Waiting], error: Exception) -> None:
    if isinstance(error, DeadlineExceeded):
        error = NotReady(f"The key's limits can't be looked up: {error.message}").after(RETRY_S)
    for one in waiting:
        if not one.second.done():
            one.second.set_exception(copy(error))  # an instance gathers the tracebacks of all who raise it
