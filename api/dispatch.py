"""From a model's name to its replicas, by Ray.

Keeps this ingress's copy of all model states, asks the controller on a miss, waits within the deadline, and
translates what Serve raises. A request that waits for a model or runs on one is answered when the model fails or goes.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from api.merging import Merger
from api.ray_errors import translated
from deployments.backends.base import ModelCard, Task
from deployments.errors import (
    DeadlineExceeded,
    InvalidRequest,
    MantaError,
    ModelDisabled,
    ModelNotFound,
    ModelUnloaded,
    NotReady,
    ReplicaDied,
    load_failure,
)
from deployments.serve_apps import model_handle
from deployments.states import InUse, ModelStatus, Report, State, Update

logger = logging.getLogger("manta.dispatch")

CONTROLLER_TIMEOUT_S = 5.0
"""For a call that the controller answers at once."""
REAPPEARING_S = 5.0
"""So long after a re-creation a handle may still think that its deployment is gone (rayserve.md §2.4)."""


@dataclass(slots=True)
class Local:
    """What this ingress knows of a model and does with it."""

    status: ModelStatus
    handle: DeploymentHandle | None = None
    in_flight: int = 0
    last_used: float = 0.0
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set, and replaced, when the status changes."""
    calls: set["Call"] = field(default_factory=set)
    methods: dict[tuple[str, bool, bool], DeploymentHandle] = field(default_factory=dict)

    def method(self, name: str, *, stream: bool, large: bool = False) -> DeploymentHandle:
        """The handle's method, made once per model. Plain pickle will do: what crosses is dataclasses of ours."""
        assert self.handle is not None
        key = (name, stream, large)
        if key not in self.methods:
            handle = self.handle.options(
                stream=stream,
                request_serialization="pickle",
                response_serialization="pickle",
                **({"_by_reference": True} if large else {}),  # else Serve's own choice
            )
            self.methods[key] = getattr(handle, name)
        return self.methods[key]


class Call:
    """One request on its way. `async with call:` bounds each wait by its deadline, which `abort` brings forward."""

    def __init__(self, timeout: float) -> None:
        self._deadline = asyncio.get_running_loop().time() + timeout
        self._timer: asyncio.Timeout | None = None
        self._error: MantaError = DeadlineExceeded(f"the request took longer than {timeout:.0f} s")

    def abort(self, error: MantaError) -> None:
        """Whoever waits inside the block gets this error, now."""
        self._error = error
        self._deadline = asyncio.get_running_loop().time()
        if self._timer:
            self._timer.reschedule(self._deadline)

    async def __aenter__(self) -> None:
        self._timer = asyncio.timeout_at(self._deadline)
        await self._timer.__aenter__()

    async def __aexit__(self, *exception: Any) -> None:
        timer, self._timer = self._timer, None
        assert timer is not None
        try:
            await timer.__aexit__(*exception)
        except TimeoutError:
            raise self._error from None


class Dispatch:
    """The ingress's way to models (`gateway.Gateway`)."""

    def __init__(
        self,
        controller: DeploymentHandle,
        request_timeout: float,
        *,
        node: str = "",
        additions: Sequence[Callable[[Report], Callable[[], None] | None]] = (),
    ) -> None:
        """`node`: where this ingress runs. `additions`: put what else there is to tell the controller in its report;
        what they return is called once it has arrived."""
        self._controller = controller
        self._timeout = request_timeout
        self._node = node
        self._additions = additions
        self._id = uuid.uuid4().hex
        self._epoch, self._version = "", -1
        self._models: dict[str, Local] = {}
        self._cards: dict[str, ModelCard] = {}
        self._synced = False
        self._merger = Merger(self._call)
        self._syncing = asyncio.create_task(self._sync(), name="sync")

    # ---- what is there ----

    def ready(self) -> str | None:
        return None if self._synced else "the model controller has not answered yet"

    def cards(self) -> list[ModelCard]:
        return list(self._cards.values())

    def resolve(self, name: str | None, task: Task) -> ModelCard:
        """The installed model of that name, aliases followed; without a name, the first that can do the task."""
        if not self._synced:
            raise NotReady("the server is starting").after(1)
        if not name:
            return self._first(task)
        card = self._cards.get(name)
        if card and card.alias_of:
            card = self._cards.get(card.alias_of)
        if card is None:
            raise ModelNotFound(f'model "{name}" not found. To see available models, call GET /v1/models').at("model")
        if card.disabled:
            raise ModelDisabled(f'model "{name}" is disabled').at("model")
        if task not in card.tasks:
            raise InvalidRequest(f'model "{name}" can\'t do this: it is for {", ".join(card.tasks)}').at("model")
        return card

    def _first(self, task: Task) -> ModelCard:
        able = [c for c in self._cards.values() if task in c.tasks and not c.disabled and not c.alias_of]
        if not able:
            raise InvalidRequest("no model was named, and none is installed that can do this").at("model")
        return min(able, key=lambda card: (card.loose, card.name))

    async def reload(self) -> dict[str, str]:
        async with asyncio.timeout(60):
            errors: dict[str, str] = await self._controller.reload.remote()
            return errors

    # ---- calls ----

    async def call(self, model: str, method: str, request: object, *, large: bool = False, merged: bool = False) -> Any:
        """A unary method of one of the model's replicas. `large`: by way of the object store."""
        if merged:
            return await self._merger.call(model, method, request)
        return await self._call(model, method, request, large=large)

    async def _call(self, model: str, method: str, request: object, *, large: bool = False) -> Any:
        async with self._on(model) as (local, call), _arguments(request, large) as arguments:

            async def send() -> Any:
                response = local.method(method, stream=False, large=large).remote(*arguments)
                try:
                    return await response
                except asyncio.CancelledError:
                    response.cancel()
                    raise

            return await self._attempts(model, call, local, send)

    async def stream(
        self, model: str, method: str, request: object, *, large: bool = False
    ) -> AsyncGenerator[Any, None]:
        """A streaming method of one of the model's replicas. Closing the iterator cancels it there."""
        async with self._on(model) as (local, call), _arguments(request, large) as arguments:
            responses: list[Any] = []

            async def send() -> Any:
                responses[:] = [local.method(method, stream=True, large=large).remote(*arguments)]
                return await anext(responses[0])

            try:
                yield await self._attempts(model, call, local, send)
                while True:
                    async with call:
                        try:
                            item = await anext(responses[0])
                        except StopAsyncIteration:
                            return
                        except Exception as error:
                            raise _translated(error, model) from error
                    yield item
            except StopAsyncIteration:
                return
            finally:
                for response in responses:
                    response.cancel()

    async def _attempts(self, model: str, call: Call, local: Local, send: Callable[[], Awaitable[Any]]) -> Any:
        """The first answer to a request of which nothing has been delivered yet, so that it may be sent again:
        once when its replica died, and while a handle has not yet heard that its deployment is back."""
        give_up = time.monotonic() + REAPPEARING_S
        died = False
        async with call:
            while True:
                try:
                    return await send()
                except DeploymentUnavailableError as error:
                    if local.status.state is not State.READY or time.monotonic() > give_up:
                        raise _unloaded(model) from error
                    await asyncio.sleep(0.1)
                except StopAsyncIteration:
                    raise
                except Exception as error:
                    ours = _translated(error, model)
                    if not isinstance(ours, ReplicaDied) or died:
                        raise ours from error
                    died = True

    @asynccontextmanager
    async def _on(self, model: str) -> AsyncIterator[tuple[Local, Call]]:
        """A call on a model that is READY, counted as in flight until the block ends."""
        call = Call(self._timeout)
        async with call:
            local = await self._ready(model)
        local.in_flight += 1
        local.calls.add(call)
        try:
            yield local, call
        finally:
            local.in_flight -= 1
            local.last_used = time.time()
            local.calls.discard(call)

    async def _ready(self, model: str) -> Local:
        """Wait until the model is READY; no wait and no call on the hot path."""
        while True:
            local = self._models.get(model)
            if local is None or model not in self._cards:
                raise ModelNotFound(f'model "{model}" was removed').at("model")
            status = local.status
            if status.state is State.READY:
                return local
            if status.state is State.FAILED and status.error and (left := status.until - time.time()) > 0:
                raise load_failure(model, status.error).after(left)
            changed = local.changed
            if status.state in (State.ABSENT, State.FAILED):
                await self._ask_to_load(model)
            with suppress(TimeoutError):  # then look, and ask, again: the controller may have been restarted
                async with asyncio.timeout(2 * CONTROLLER_TIMEOUT_S):
                    await changed.wait()

    async def _ask_to_load(self, model: str) -> None:
        try:
            async with asyncio.timeout(CONTROLLER_TIMEOUT_S):
                await self._controller.load.remote(model)
        except (TimeoutError, RayError, DeploymentUnavailableError) as error:
            if isinstance(error, RayTaskError):
                raise _translated(error, model) from error
            logger.warning("the controller does not answer, asking again: %s", error)
            await asyncio.sleep(0.2)

    # ---- state ----

    async def _sync(self) -> None:
        """Report and be told, for ever. The controller's absence stops nothing: what was READY is served on."""
        while True:
            report = Report(
                self._id,
                self._epoch,
                self._version,
                {n: InUse(m.in_flight, m.last_used) for n, m in self._models.items() if m.last_used or m.in_flight},
                self._node,
            )
            arrived = [add(report) for add in self._additions]
            try:
                async with asyncio.timeout(CONTROLLER_TIMEOUT_S):
                    update = await self._controller.sync.remote(report)
            except Exception as error:  # noqa: BLE001 – whatever it is, the next try may go well
                logger.warning("no news from the controller: %s: %s", type(error).__name__, error)
                await asyncio.sleep(0.5)
                continue
            self._apply(update)
            for tell in filter(None, arrived):
                tell()

    def _apply(self, update: Update) -> None:
        for name, status in update.statuses.items():
            self._set(name, status)
        if update.whole:
            for name in self._models.keys() - update.statuses.keys():
                self._set(name, ModelStatus(State.ABSENT, ""))
        if update.cards is not None:
            self._cards = {card.name: card for card in update.cards}
        self._epoch, self._version, self._synced = update.epoch, update.version, True

    def _set(self, name: str, status: ModelStatus) -> None:
        local = self._models.get(name)
        if local is None:
            self._models[name] = local = Local(status)
        if status.state is State.READY and local.handle is None:
            local.handle, local.methods = model_handle(status.app), {}
        if status.state in (State.ABSENT, State.FAILED):
            for call in list(local.calls):
                call.abort(load_failure(name, status.error) if status.error else _unloaded(name))
        local.status = status
        local.changed.set()
        local.changed = asyncio.Event()


@asynccontextmanager
async def _arguments(request: object, large: bool) -> AsyncIterator[list[Any]]:
    """The request, where it is `large` in Ray's object store: the replica reads its arrays there, and a second try
    copies nothing again. A gigabyte takes half a second: a thread's."""
    arguments = [await asyncio.to_thread(ray.put, request) if large else request]
    try:
        yield arguments
    finally:
        # The store frees it when nobody has the reference; who has the list may live on in a cycle with an error.
        arguments.clear()


def _unloaded(model: str) -> MantaError:
    return ModelUnloaded(f'model "{model}" was unloaded').after(1)


def _translated(error: Exception, model: str) -> MantaError | Exception:
    return translated(error, f"model {model}", _unloaded(model))
