"""The last minute of every API key with a limit, as the controller keeps it."""

import time
from collections.abc import Callable, Iterable

from api.quotas import LEASE_S, Amounts, Lease, LeaseRequest
from deployments.states import Settlement

MINUTE_S = 60
KEPT_S = MINUTE_S + 1 + int(LEASE_S)
"""What is lent in a second counts for so long: it was lent at its end at the latest, and used LEASE_S later."""
AHEAD = 100
"""An ingress is lent a hundredth of a limit ahead of its need. What it doesn't use comes back after LEASE_S."""

Account = tuple[str, str]
"""A key's tenant and a resource."""


class Window:
    """What was lent of one resource of one key, by the second."""

    def __init__(self) -> None:
        self.sums: dict[int, int] = {}
        """In order of time."""

    def add(self, second: int, amount: int) -> None:
        self.sums[second] = self.sums.get(second, 0) + amount

    def take_back(self, second: int, amount: int) -> None:
        """What has left the window can't be given back."""
        if second in self.sums:
            self.sums[second] = max(0, self.sums[second] - amount)

    def used(self, now: int, period: int = KEPT_S) -> int:
        """What counts of the last `period` seconds."""
        while self.sums and (oldest := next(iter(self.sums))) <= now - KEPT_S:
            del self.sums[oldest]
        return sum(amount for second, amount in self.sums.items() if second > now - period)

    def room_at(self, amount: int, limit: int) -> int:
        """Unix time at which `amount` fits under the limit, if nothing else comes; 0: it does."""
        excess, at = sum(self.sums.values()) + amount - limit, 0
        for second, lent in self.sums.items():
            if excess <= 0:
                break
            excess, at = excess - lent, second + KEPT_S
        return at


class QuotaWindows:
    """Lends parts of the limits. Does not wait for anything; `QuotaKeeper` lets it outlive the process."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        """`clock`: Unix time that never goes back."""
        self._clock = clock or _steady_clock()
        self._windows: dict[Account, Window] = {}
        self.changed: set[Account] = set()
        """Windows, since `changes` was called last."""

    def lease(self, request: LeaseRequest) -> Lease:
        """Let each request take all that it needs, or nothing; where all could, lend some more ahead."""
        clock = self._clock()
        now, limits = int(clock), request.limits
        windows = {resource: self._windows.setdefault((request.key, resource), Window()) for resource in limits}
        room = {resource: limit - windows[resource].used(now) for resource, limit in limits.items()}
        lent = dict.fromkeys(limits, 0)
        lease, refused = Lease(now, []), None
        for need in request.needs:
            fits = all(lent[resource] + amount <= room[resource] for resource, amount in need.items())
            lease.granted.append(fits)
            if fits:
                lent = {resource: lent[resource] + need.get(resource, 0) for resource in lent}
            elif refused is None:
                refused = need
        if refused is None:
            lease.ahead = {r: max(0, min(limit // AHEAD, room[r]) - lent[r]) for r, limit in limits.items()}
            lent = {resource: lent[resource] + lease.ahead[resource] for resource in lent}
        for resource, amount in lent.items():
            lease.remaining[resource] = room[resource] - amount
            if amount:
                windows[resource].add(now, amount)
                self.changed.add((request.key, resource))
        if refused is not None:
            at = {resource: windows[resource].room_at(need, limits[resource]) for resource, need in refused.items()}
            lease.exhausted = max(at, key=lambda resource: at[resource])
            lease.retry_after = max(0.0, at[lease.exhausted] - clock)
        return lease

    def settle(self, settlements: Iterable[Settlement]) -> None:
        """Take what ingresses have not used, or have used beyond what they were lent."""
        now = int(self._clock())
        for one in settlements:
            account = (one.key, one.resource)
            window = self._windows.setdefault(account, Window())
            if one.amount > 0:
                window.take_back(one.second, one.amount)
            else:
                window.add(now, -one.amount)
            self.changed.add(account)

    def used(self) -> dict[str, Amounts]:
        """Tenant → what its key has used, or holds for requests that run, of the last minute."""
        now, used = int(self._clock()), dict[str, dict[str, int]]()
        for (key, resource), window in self._windows.items():
            used.setdefault(key, {})[resource] = window.used(now, MINUTE_S)
        return dict(used)

    # ---- for what keeps them ----

    def restore(self, sums: dict[Account, dict[int, int]]) -> None:
        """Add what another life of this process has lent. Seconds to come are taken for the present one."""
        now = int(self._clock())
        for account, by_second in sums.items():
            window = self._windows.setdefault(account, Window())
            for second in sorted(by_second):
                window.add(min(second, now), by_second[second])
            window.sums = dict(sorted(window.sums.items()))

    def changes(self) -> dict[Account, dict[int, int]]:
        """The windows that changed since the last call."""
        now = int(self._clock())
        changed, self.changed = self.changed, set()
        sums = {}
        for account in changed:
            self._windows[account].used(now)  # lets the oldest go
            sums[account] = dict(self._windows[account].sums)
        return sums


def _steady_clock() -> Callable[[], float]:
    start = time.time() - time.monotonic()
    return lambda: start + time.monotonic()
