"""Small requests of the same moment: one call, each with its own answer."""

import asyncio
from typing import Any

import pytest

from api.merging import MOST, Merger
from deployments.errors import EngineError, InvalidRequest


class Replica:
    """Doubles numbers. Fails those below 0, and all when told to."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, object]] = []
        self.error: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.cancelled = 0

    async def call(self, model: str, method: str, request: Any) -> Any:
        self.calls.append((model, method, request))
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return [_doubled(number) for number in request] if method.endswith("_each") else _doubled(request)


def _doubled(number: int) -> int | InvalidRequest:
    return InvalidRequest(f"{number} is below 0") if number < 0 else 2 * number


async def test_a_lone_request_is_sent_as_it_is() -> None:
    replica = Replica()
    assert await Merger(replica.call).call("m", "embed", 4) == 8
    assert replica.calls == [("m", "embed", 4)]


async def test_those_of_a_moment_go_together() -> None:
    replica = Replica()
    merger = Merger(replica.call)
    answers = await asyncio.gather(*(merger.call("m", "embed", number) for number in range(MOST + 2)))
    assert answers == [2 * number for number in range(MOST + 2)]
    assert replica.calls == [("m", "embed_each", list(range(MOST))), ("m", "embed_each", [MOST, MOST + 1])]


async def test_models_and_methods_stay_apart() -> None:
    replica = Replica()
    merger = Merger(replica.call)
    await asyncio.gather(merger.call("m", "embed", 1), merger.call("n", "embed", 2), merger.call("m", "other", 3))
    assert sorted(replica.calls) == [("m", "embed", 1), ("m", "other", 3), ("n", "embed", 2)]


async def test_nothing_is_kept_of_a_model_that_was_called() -> None:
    merger = Merger(Replica().call)
    assert await merger.call("m", "embed", 1) == 2
    assert merger._gatherings == {}
    assert await merger.call("m", "embed", 2) == 4


async def test_one_fails_alone() -> None:
    merger = Merger(Replica().call)
    first, second = await asyncio.gather(
        merger.call("m", "embed", -1), merger.call("m", "embed", 1), return_exceptions=True
    )
    assert isinstance(first, InvalidRequest)
    assert second == 2


async def test_when_all_fail_each_has_an_error_of_its_own() -> None:
    replica = Replica()
    replica.error = EngineError("out of memory").after(3)
    merger = Merger(replica.call)
    errors = await asyncio.gather(*(merger.call("m", "embed", number) for number in (1, 2)), return_exceptions=True)
    assert all(isinstance(error, EngineError) for error in errors)
    assert [str(error) for error in errors] == ["out of memory"] * 2
    assert errors[0] is not errors[1]


async def two_waiting_clients(replica: Replica) -> list[asyncio.Task[Any]]:
    """Their requests have reached the replica, which answers when its gate opens."""
    replica.gate.clear()
    merger = Merger(replica.call)
    clients = [asyncio.create_task(merger.call("m", "embed", number)) for number in (1, 2)]
    async with asyncio.timeout(5):
        while not replica.calls:
            await asyncio.sleep(0)
    return clients


async def test_a_call_ends_when_the_last_client_has_left() -> None:
    replica = Replica()
    clients = await two_waiting_clients(replica)
    async with asyncio.timeout(5):
        clients[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await clients[0]
        assert not replica.cancelled
        clients[1].cancel()
        while not replica.cancelled:
            await asyncio.sleep(0)


async def test_the_others_get_their_answers_when_one_leaves() -> None:
    replica = Replica()
    clients = await two_waiting_clients(replica)
    clients[0].cancel()
    replica.gate.set()
    async with asyncio.timeout(5):
        assert await clients[1] == 4
