"""A deployment of one replica, called across its restarts."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ray.serve.handle import DeploymentHandle

from api.ray_errors import translated
from deployments.errors import DeadlineExceeded, MantaError, NotReady, ReplicaDied

ANSWER_S = 60.0
"""For a call, its waiting for a replica included: Serve has a killed one back in about 10 s."""
RETRY_S = 0.2


class Away(NotReady):
    """There is no replica to call at the moment."""


class SoleReplica:
    """The way to it. Every wait has an end: a handle alone waits for ever for a replica that never comes."""

    def __init__(self, handle: DeploymentHandle, name: str) -> None:
        self._handle = handle
        self._streams = handle.options(stream=True)
        self._name = name

    async def ask(self, method: str, *args: Any, timeout: float = ANSWER_S) -> Any:
        """A call that does no harm when it is made twice, as it is when the replica dies over it."""
        return await self._within(timeout, method, args, again=(Away, ReplicaDied))

    async def tell(self, method: str, *args: Any, timeout: float = ANSWER_S) -> Any:
        """A call that must not be carried out twice. Raises NotReady when the replica dies over it."""
        try:
            return await self._within(timeout, method, args, again=(Away,))
        except ReplicaDied as error:
            raise NotReady(
                f"{self._name} was restarted while it had this request: look whether it was carried out before you "
                "send it again"
            ).after(5) from error

    async def stream(self, method: str, *args: Any) -> AsyncGenerator[Any, None]:
        """The items of a streaming method. Raises Away or ReplicaDied when they break off; closing it ends them."""
        response = getattr(self._streams, method).remote(*args)
        try:
            async for item in response:
                yield item
        except Exception as error:
            raise self._translated(error) from error
        finally:
            response.cancel()

    async def _within(
        self, timeout: float, method: str, args: tuple[Any, ...], again: tuple[type[MantaError], ...]
    ) -> Any:
        try:
            async with asyncio.timeout(timeout):
                while True:
                    try:
                        return await self._call(method, args)
                    except again:
                        await asyncio.sleep(RETRY_S)
        except TimeoutError:
            raise DeadlineExceeded(f"{self._name} did not answer within {timeout:.0f} s") from None

    async def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        response = getattr(self._handle, method).remote(*args)
        try:
            return await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except Exception as error:
            raise self._translated(error) from error

    def _translated(self, error: Exception) -> MantaError | Exception:
        return translated(error, self._name, Away(f"{self._name} is being restarted").after(5))
