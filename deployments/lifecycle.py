"""One model's way from ABSENT to READY and back: load, fail, evict, drain, unload."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import psutil

from deployments.backends.base import Task
from deployments.config import ModelConfig, ModelDefaults, tasks
from deployments.errors import MantaError, ModelLoadFailed
from deployments.ingresses import Ingresses
from deployments.metrics import EVICTIONS, MODEL_LOAD_FAILURES, MODEL_LOAD_SECONDS
from deployments.reports import ReplicaReport
from deployments.states import ModelStatus, State

logger = logging.getLogger("manta.lifecycle")

STATUS_S = 0.5
"""How often Serve is asked for the state of applications, while something is loading or going."""


class Apps(Protocol):
    """Models' Serve applications (`serve_apps.ServeApps`); a fake in tests."""

    async def deploy(self, app: str, config: ModelConfig, task: Task, spec_hash: str) -> None: ...

    async def delete(self, app: str) -> None: ...

    async def statuses(self) -> dict[str, Any]: ...

    async def describe(self, app: str) -> list[dict[str, Any]]: ...

    async def report(self, app: str) -> list[ReplicaReport]: ...


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """What the operator decides about models' lives. Times in seconds."""

    models_path: str
    config_file: str | None = None
    aliases_file: str | None = None
    defaults: ModelDefaults = field(default_factory=ModelDefaults)
    preload: tuple[str, ...] = ()
    """Names of models to keep loaded from the start, beside those whose config says so."""
    max_active_models: int = 0
    """0: no limit but memory."""
    memory_headroom: float = 0.05
    """Part of the machine's memory that stays free: idle models are evicted before a load that would take it."""
    cooldown: float = 10.0
    """After a failed load; doubles with each further failure…"""
    max_cooldown: float = 300.0
    """… up to this."""
    drain_timeout: float = 600.0
    """A model that must go waits this long for its running requests."""


@dataclass(slots=True)
class Model:
    """An installed model and where it stands."""

    config: ModelConfig
    spec_hash: str
    app: str
    state: State = State.ABSENT
    progress: float = 0.0
    error: MantaError | None = None
    until: float = 0.0
    failures: int = 0
    version: int = 0
    """At which its state last changed."""
    last_used: float = field(default_factory=time.time)
    work: asyncio.Task[None] | None = None
    """The load or unload in progress."""
    outcome: asyncio.Future[None] | None = None
    """Set by the replica's report while the model loads."""
    retired: bool = False
    """Its config went or changed: it is never loaded again, but replaced."""
    held: bool = False
    """Unloaded by hand: preloading leaves it alone until somebody asks for it."""
    admitted: bool = False
    """There is room for it: it counts as active while it loads."""

    def status(self) -> ModelStatus:
        return ModelStatus(self.state, self.app, self.progress, self.error, self.until)


class Lifecycle:
    """Carries out what the controller decides. Every state change is told to the ingresses."""

    def __init__(
        self, settings: ControllerSettings, apps: Apps, ingresses: Ingresses, models: Mapping[str, Model]
    ) -> None:
        """`models`: all of them, as the controller keeps them."""
        self._settings = settings
        self._apps = apps
        self._ingresses = ingresses
        self._models = models
        self._room = asyncio.Lock()

    # ---- load ----

    def begin_load(self, model: Model) -> None:
        """LOADING, then READY or FAILED."""
        model.work = asyncio.create_task(self._load(model), name=f"load {model.config.name}")

    def begin_fail(self, model: Model, error: MantaError) -> None:
        """FAILED, for a model that was READY."""
        model.work = asyncio.create_task(self._failed(model, error), name=f"fail {model.config.name}")

    async def _load(self, model: Model) -> None:
        name = model.config.name
        model.state, model.progress, model.error, model.admitted = State.LOADING, 0.0, None, False
        model.outcome = asyncio.get_running_loop().create_future()
        self.publish(model)
        started = time.monotonic()
        try:
            async with asyncio.timeout(model.config.load_timeout):
                await self._make_room(model)
                await self._forgotten(model)
                await self._apps.deploy(model.app, model.config, tasks(model.config)[0], model.spec_hash)
                await self._outcome(model)
        except Exception as cause:  # noqa: BLE001 – it is what requests are answered with
            await self._failed(model, cause)
            return
        finally:
            model.outcome = None
        model.state, model.failures, model.last_used = State.READY, 0, time.time()
        seconds = time.monotonic() - started
        MODEL_LOAD_SECONDS.labels(name).observe(seconds)
        logger.info("model %s is loaded after %.1f s", name, seconds)
        self.publish(model)

    async def _outcome(self, model: Model) -> None:
        """Wait for the replica's own report; Serve's state tells when the replica died without one."""
        assert model.outcome is not None
        while True:
            await asyncio.wait([model.outcome], timeout=STATUS_S)
            if model.outcome.done():
                return model.outcome.result()
            status = (await self._apps.statuses()).get(model.app)
            if status and status.failed and not model.outcome.done():
                raise ModelLoadFailed(f"the replica ended while it loaded the model: {status.message}")

    async def _failed(self, model: Model, cause: Exception) -> None:
        name = model.config.name
        if isinstance(cause, TimeoutError):
            status = (await self._apps.statuses()).get(model.app)
            cause = ModelLoadFailed(
                f'model "{name}" was not loaded within {model.config.load_timeout:.0f} s'
                + (f": {status.message}" if status and status.message else "")
            )
        elif not isinstance(cause, MantaError):
            logger.error("loading model %s failed", name, exc_info=cause)
            cause = ModelLoadFailed(f'model "{name}" could not be started: {type(cause).__name__}: {cause}')
        model.failures += 1
        MODEL_LOAD_FAILURES.labels(name).inc()
        cooldown = min(self._settings.cooldown * 2 ** (model.failures - 1), self._settings.max_cooldown)
        model.state, model.error, model.until = State.FAILED, cause, time.time() + cooldown
        logger.warning("model %s failed to load, next try in %.0f s at the earliest: %s", name, cooldown, cause)
        self.publish(model)
        await self._delete(model)

    async def _make_room(self, model: Model) -> None:
        """Evict idle models, least recently used first, until one more fits. Waits while all are busy."""
        async with self._room:
            while reason := self._too_much():
                idle = [m for m in self._models.values() if self._evictable(m) and m is not model]
                if idle:
                    victim = min(idle, key=lambda m: m.last_used)
                    logger.info("evicting model %s for %s: %s", victim.config.name, model.config.name, reason)
                    EVICTIONS.labels(victim.config.name, reason).inc()
                    await self.unload(victim)
                elif reason == "count":
                    await asyncio.sleep(STATUS_S)
                else:
                    break  # short of memory with nothing to evict: the engine will say whether it fits
            model.admitted = True

    def _too_much(self) -> Literal["count", "memory", ""]:
        """What one model more would be too much for; empty: it fits."""
        if self._over_count():
            return "count"
        return "memory" if self._short_of_memory() else ""

    def _over_count(self) -> bool:
        """Would one more be too many?"""
        limit = self._settings.max_active_models
        return bool(limit) and limit <= sum(
            m.state in (State.READY, State.DRAINING) or (m.state is State.LOADING and m.admitted)
            for m in self._models.values()
        )

    def _short_of_memory(self) -> bool:
        memory = psutil.virtual_memory()
        return bool(memory.available < memory.total * self._settings.memory_headroom)

    def _evictable(self, model: Model) -> bool:
        return (
            model.state is State.READY and not model.config.pinned and self._ingresses.in_flight(model.config.name) == 0
        )

    async def settled(self, model: Model) -> None:
        """Return when the load or unload in progress has ended; where there is none, in a moment."""
        if model.work and not model.work.done():
            await asyncio.wait([model.work])
        else:
            await asyncio.sleep(0.05)  # its config changed, and its successor is about to come

    # ---- unload ----

    async def unload(self, model: Model) -> None:
        """Returns when the model is gone."""
        await asyncio.wait([self.begin_unload(model)])

    def begin_unload(self, model: Model) -> asyncio.Task[None]:
        """DRAINING, then ABSENT. A load in progress is broken off; an unload in progress is joined."""
        current = model.work if model.work and not model.work.done() else None
        if current and model.state is State.DRAINING:
            return current
        if current:
            current.cancel()
        if model.state is State.READY:
            model.state = State.DRAINING
        model.work = asyncio.create_task(self._drain_and_delete(model, current), name=f"unload {model.config.name}")
        return model.work

    async def _drain_and_delete(self, model: Model, load: asyncio.Task[None] | None) -> None:
        if load:
            await asyncio.wait([load])
        if model.state is State.DRAINING:
            self.publish(model)
            await self._drained(model)
        if model.state is not State.ABSENT:
            await self._delete(model)
            model.state, model.error = State.ABSENT, None
            self.publish(model)

    async def _drained(self, model: Model) -> None:
        """Wait until no ingress sends it anything and nothing runs on it (bounded by `drain_timeout`)."""
        version, name = model.version, model.config.name
        try:
            async with asyncio.timeout(self._settings.drain_timeout):
                while not self._ingresses.acknowledged(version) or self._ingresses.in_flight(model.config.name):
                    await asyncio.sleep(0.05)
                while any(r["slots_busy"] or r["queued"] for r in await self._apps.describe(model.app)):
                    await asyncio.sleep(0.2)
        except TimeoutError:
            logger.warning("model %s is unloaded with requests running: drain timeout", name)
        except Exception as error:  # noqa: BLE001 – dead replicas have nothing in flight
            logger.warning("model %s does not answer while it drains: %s", name, error)

    async def _delete(self, model: Model) -> None:
        await self._apps.delete(model.app)
        await self._forgotten(model)

    async def _forgotten(self, model: Model) -> None:
        """Wait until Serve knows no application of that name: it can't be used again before."""
        while model.app in await self._apps.statuses():
            await asyncio.sleep(0.2)

    def publish(self, model: Model) -> None:
        """Tell the ingresses of the model's state."""
        model.version = self._ingresses.tell()
