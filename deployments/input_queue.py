"""Inputs that wait for an encoder: fair between tenants and requests, taken in batches of about the same length."""

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Generic, TypeVar

from deployments.arrival import Arrival
from deployments.backends.base import Tokens

PADDING_SHARE = 16
"""A batch may hold `batch_tokens / 16` tokens of padding: about what the fixed cost of one more batch is worth.

Measured with all-MiniLM-L6-v2 on one CPU thread: 5.5 ms for a batch and 0.17 ms for each of its tokens, so 32 tokens
of the 512 with which a batch is full.
"""

LOOKED_AT = 256
"""Requests, beyond twice those that fill a batch, among which its inputs are sought: bounds the work of one batch."""


@dataclass(slots=True, eq=False)
class Owner(Arrival):
    """A request. Its inputs share its turns, however many there are. It has started when inputs of it were taken."""

    tenant: str = ""


T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Input(Generic[T]):
    """One input that waits."""

    tokens: Tokens
    owner: Owner
    answer: T
    """Where its row goes."""
    length: int = field(init=False)
    gone: bool = False
    """Taken or discarded; its places in the lines are cleared when they are next seen."""

    def __post_init__(self) -> None:
        self.length = max(1, len(self.tokens.ids))


class InputQueue(Generic[T]):
    """Tenants take turns, then a tenant's requests, each with its oldest input; others of its length ride along.

    So everybody's delay is bounded by the turns before it: a request of 10,000 inputs delays another by a batch, and
    short inputs do not put off a long one for ever. An operation's work is that of the inputs it moves, whatever waits.
    """

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._padding = batch_tokens // PADDING_SHARE
        self._tenants: dict[str, dict[Owner, _Line[T]]] = {}
        """The order of the keys, of both, is the order of turns."""
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def push(self, inputs: Sequence[Input[T]]) -> None:
        for item in inputs:
            lines = self._tenants.setdefault(item.owner.tenant, {})
            if (line := lines.get(item.owner)) is None:
                line = lines[item.owner] = _Line()
            line.add(item)
        self._waiting += len(inputs)

    def discard(self, inputs: Sequence[Input[T]]) -> None:
        """Remove those that still wait: nobody wants their rows any more."""
        for item in inputs:
            if not item.gone:
                self._remove(item)

    def take_batch(self) -> list[Input[T]]:
        """Remove and return what runs next, no input longer than the first. Empty: nothing waits.

        Longest × count is at most `batch_tokens`, except for one input alone.
        """
        if not self._waiting:
            return []
        oldest = next(self._turns()).oldest()
        capacity = max(1, self._batch_tokens // oldest.length)
        batch = self._alike(oldest.length, capacity)
        for item in batch:
            item.owner.start()
            self._remove(item)
        self._end_turn(oldest.owner)
        return batch

    def _alike(self, longest: int, capacity: int) -> list[Input[T]]:
        """Up to `capacity` inputs: each request's closest in length before anyone's second, within the padding."""
        found: list[tuple[int, Input[T]]] = []
        for line in islice(self._turns(), 2 * capacity + LOOKED_AT):
            found += enumerate(line.closest(longest, self._padding, capacity))
            if len(found) > 2 * capacity + LOOKED_AT:
                break
        found.sort(key=lambda ranked: (ranked[0], -ranked[1].length))  # stable: whose turn it is stays first
        batch: list[Input[T]] = []
        padding = self._padding
        for _, item in found:
            if longest - item.length <= padding:
                padding -= longest - item.length
                batch.append(item)
                if len(batch) == capacity:
                    break
        return batch

    def _turns(self) -> Iterator["_Line[T]"]:
        """Lines in the order of their turns."""
        tenants = [iter(lines.values()) for lines in self._tenants.values()]
        while tenants:
            more = []
            for lines in tenants:
                for line in lines:
                    yield line
                    more.append(lines)
                    break
            tenants = more

    def _end_turn(self, owner: Owner) -> None:
        """The tenant, and the request among the tenant's, go to the end."""
        if lines := self._tenants.pop(owner.tenant, None):
            self._tenants[owner.tenant] = lines
            if line := lines.pop(owner, None):
                lines[owner] = line

    def _remove(self, item: Input[T]) -> None:
        item.gone = True
        self._waiting -= 1
        lines = self._tenants[item.owner.tenant]
        line = lines[item.owner]
        line.waiting -= 1
        if not line.waiting:
            del lines[item.owner]
            if not lines:
                del self._tenants[item.owner.tenant]


class _Line(Generic[T]):
    """One request's inputs, in the order in which they came and by length."""

    def __init__(self) -> None:
        self.waiting = 0
        self._arrived: deque[Input[T]] = deque()
        self._by_length: dict[int, deque[Input[T]]] = {}
        self._lengths: list[int] = []
        """The keys of `_by_length`, sorted."""

    def add(self, item: Input[T]) -> None:
        self.waiting += 1
        self._arrived.append(item)
        if item.length not in self._by_length:
            self._by_length[item.length] = deque()
            insort(self._lengths, item.length)
        self._by_length[item.length].append(item)

    def oldest(self) -> Input[T]:
        _clear_front(self._arrived)
        return self._arrived[0]

    def closest(self, longest: int, within: int, limit: int) -> list[Input[T]]:
        """Up to `limit` inputs of at most `longest` tokens and at most `within` fewer, the longest first."""
        found: list[Input[T]] = []
        for place in range(bisect_right(self._lengths, longest) - 1, -1, -1):
            length = self._lengths[place]
            if length < longest - within or len(found) == limit:
                break
            items = self._by_length[length]
            _clear_front(items)
            if not items:
                del self._by_length[length], self._lengths[place]
            found += islice((item for item in items if not item.gone), limit - len(found))
        return found


def _clear_front(items: deque[Input[T]]) -> None:
    while items and items[0].gone:
        items.popleft()
