"""Turns between tenants."""

from dataclasses import dataclass

from deployments.backends.fair_queue import FairQueue


@dataclass(eq=False)
class Waiting:
    name: str
    tenant: str


def queue_of(*names: str) -> FairQueue[Waiting]:
    """Items `a1 a2 b1`: tenant and number."""
    queue: FairQueue[Waiting] = FairQueue()
    for name in names:
        queue.push(Waiting(name, tenant=name[0]))
    return queue


def serve_all(queue: FairQueue[Waiting]) -> list[str]:
    served = []
    while queue:
        item = next(iter(queue))
        queue.take(item)
        served.append(item.name)
    return served


def test_tenants_take_turns() -> None:
    assert serve_all(queue_of("a1", "a2", "a3", "a4", "b1", "c1", "b2")) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_iteration_is_the_order_of_serving() -> None:
    names = ("a1", "a2", "b1", "a3", "c1", "c2")
    assert [item.name for item in queue_of(*names)] == serve_all(queue_of(*names))


def test_a_tenant_who_was_served_waits_for_the_others() -> None:
    queue = queue_of("a1", "b1")
    queue.take(next(iter(queue)))
    queue.push(Waiting("a2", "a"))
    assert serve_all(queue) == ["b1", "a2"]


def test_what_was_put_back_goes_first() -> None:
    queue = queue_of("a1", "a2", "b1")
    first = next(iter(queue))
    queue.take(first)
    queue.put_back(first)
    assert serve_all(queue) == ["a1", "b1", "a2"]


def test_discarding_takes_no_turn() -> None:
    queue = queue_of("a1", "a2", "b1", "b2")
    queue.put_back(Waiting("x1", "x"))
    assert [item.name for item in queue.discard(lambda item: item.name in {"x1", "a1", "b2"})] == ["x1", "a1", "b2"]
    assert len(queue) == 2
    assert serve_all(queue) == ["a2", "b1"]
