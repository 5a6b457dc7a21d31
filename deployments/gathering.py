"""What comes in during one turn of the event loop, handed on together."""

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gathering(Generic[T]):
    """Nobody waits for more to come: a lone item goes on in the next turn of the loop, and so do those of a crowd."""

    def __init__(self, hand_on: Callable[[list[T]], None]) -> None:
        self._hand_on = hand_on
        self._items: list[T] = []

    def add(self, item: T) -> None:
        self._items.append(item)
        if len(self._items) == 1:
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        items, self._items = self._items, []
        self._hand_on(items)
