"""A waiting line that is fair between tenants."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar


class Tenanted(Protocol):
    """Something that somebody waits for."""

    tenant: str


T = TypeVar("T", bound=Tenanted)


class FairQueue(Generic[T]):
    """Tenants take turns; within a tenant first come, first served. Items put back go before everybody."""

    def __init__(self) -> None:
        self._returned: deque[T] = deque()
        self._lines: dict[str, deque[T]] = {}
        """Tenant → its items. The order of the keys is the order of turns."""

    def __len__(self) -> int:
        return len(self._returned) + sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[T]:
        """Items in the order in which their turns come. The queue must not change meanwhile."""
        yield from self._returned
        lines = [iter(line) for line in self._lines.values()]
        while lines:
            waiting = []
            for line in lines:
                for item in line:
                    yield item
                    waiting.append(line)
                    break
            lines = waiting

    def push(self, item: T) -> None:
        self._lines.setdefault(item.tenant, deque()).append(item)

    def put_back(self, item: T) -> None:
        """An item that was taken and must be served before all others."""
        self._returned.appendleft(item)

    def take(self, item: T) -> None:
        """Remove an item that is served now: its tenant has had its turn."""
        if item in self._returned:
            self._returned.remove(item)
            return
        line = self._lines.pop(item.tenant)
        line.remove(item)
        if line:
            self._lines[item.tenant] = line

    def discard(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Remove, out of turn, what nobody waits for any more."""
        gone = [item for item in self if unwanted(item)]
        for item in gone:
            line = self._returned if item in self._returned else self._lines[item.tenant]
            line.remove(item)
        self._lines = {tenant: line for tenant, line in self._lines.items() if line}
        return gone
