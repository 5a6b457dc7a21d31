"""What routes need of the models behind them. `api/dispatch.py` is the one that knows Ray; tests have another."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from deployments.backends.base import ModelCard, Task

LARGE = 2**20
"""Bytes from which on a request goes faster by reference than by value (rayserve.md §3.4)."""


class Gateway(Protocol):
    """The way to the models."""

    def cards(self) -> list[ModelCard]:
        """Every installed model, sorted by name; aliases included, with `alias_of` set."""
        ...

    def resolve(self, name: str | None, task: Task) -> ModelCard:
        """The model that serves `name`, aliases followed; None: the first that can do the task.

        Raises ModelNotFound, ModelDisabled, or InvalidRequest when the model is not for that task.
        """
        ...

    async def call(self, model: str, method: str, request: object, *, large: bool = False, merged: bool = False) -> Any:
        """The answer of a replica's method. Waits for a cold model, up to the request's deadline.

        `large`: request or answer may have megabytes, and cross by reference. Small ones are slower that way.
        `merged`: the request is small and may go with others of the same moment, where the replica has `<method>_each`.
        """
        ...

    def stream(self, model: str, method: str, request: object, *, large: bool = False) -> AsyncGenerator[Any, None]:
        """The items of a replica's streaming method. Closing it ends the work in the replica. `large`: as of `call`."""
        ...

    async def reload(self) -> dict[str, str]:
        """Read the model configs again. What is wrong with them: path → error."""
        ...

    def ready(self) -> str | None:
        """None: requests can be served. Else the reason why not."""
        ...
