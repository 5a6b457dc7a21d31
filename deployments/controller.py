"""Which models are wanted, loaded, failing: the one place that loads, unloads and evicts."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from deployments.backends.base import Task
from deployments.catalog import Catalog, spec_hash
from deployments.config import ModelConfig, ModelDefaults, tasks
from deployments.errors import MantaError, ModelLoadFailed, ModelNotFound
from deployments.ingresses import Ingresses
from deployments.states import ModelStatus, Report, State, Update

logger = logging.getLogger("manta.controller")

SCAN_S = 2.0
"""How often the models directory is looked at."""
CARE_S = 1.0
"""How often idle models and models to preload are looked for."""
STATUS_S = 0.5
"""How often Serve is asked for the state of applications, while something is loading or going."""


class Apps(Protocol):
    """Models' Serve applications (`serve_apps.ServeApps`); a fake in tests."""

    async def deploy(self, app: str, config: ModelConfig, task: Task, spec_hash: str) -> None: ...

    async def delete(self, app: str) -> None: ...

    async def statuses(self) -> dict[str, Any]: ...

    async def describe(self, app: str) -> list[dict[str, Any]]: ...


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
    admitted: bool = False
    """There is room for it: it counts as active while it loads."""

    def status(self) -> ModelStatus:
        return ModelStatus(self.state, self.app, self.progress, self.error, self.until)


class ModelController:
    """All models' states. Runs on one event loop; every wait is bounded."""

    def __init__(self, settings: ControllerSettings, apps: Apps, app_name: Callable[[str], str]) -> None:
        self._settings = settings
        self._apps = apps
        self._app_name = app_name
        self._catalog = Catalog(
            Path(settings.models_path),
            settings.defaults,
            Path(settings.config_file) if settings.config_file else None,
            aliases_file=Path(settings.aliases_file) if settings.aliases_file else None,
        )
        self._models: dict[str, Model] = {}
        self._gone: dict[str, int] = {}  # names of removed models → version of the removal
        self._ingresses = Ingresses()
        self._cards_version = 0
        self._room = asyncio.Lock()
        self._scanning = asyncio.Lock()
        self._started = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    # ---- called by ingresses ----

    async def sync(self, report: Report) -> Update:
        """Take an ingress's report; answer with what it hasn't seen, at once if there is any, else within a second."""
        await self._started.wait()
        for name, use in report.in_use.items():
            if model := self._models.get(name):
                model.last_used = max(model.last_used, use.last_used)
        seen = await self._ingresses.heard(report)
        statuses = {name: model.status() for name, model in self._models.items() if model.version > seen}
        absent = ModelStatus(State.ABSENT, "")
        statuses |= {name: absent for name, version in self._gone.items() if version > seen}
        cards = self._catalog.cards() if self._cards_version > seen else None
        return Update(self._ingresses.epoch, self._ingresses.version, statuses, cards, whole=seen < 0)

    async def load(self, name: str) -> ModelStatus:
        """Start loading, unless it is loaded, loading, or cooling down. Answers at once."""
        await self._started.wait()
        model = self._model(name)
        if name not in self._catalog.configs:
            raise _not_found(name)
        may_try = model.state is State.ABSENT or (model.state is State.FAILED and time.time() >= model.until)
        if may_try and not model.retired and (model.work is None or model.work.done()):
            model.work = asyncio.create_task(self._load(model), name=f"load {name}")
        return model.status()

    async def unload(self, name: str) -> None:
        """Drain and unload; returns when the model is gone."""
        await self._unload(self._model(name))

    async def reload(self) -> dict[str, str]:
        """Read the configs anew. Returns the refused files and why."""
        await self._started.wait()
        await self._scan()
        return dict(self._catalog.errors)

    # ---- called by replicas ----

    async def report_loading(self, app: str, spec: str, progress: float) -> None:
        if (model := self._loading(app, spec)) and progress > model.progress:
            model.progress = progress
            self._publish(model)

    async def report_ready(self, app: str, spec: str) -> None:
        if (model := self._loading(app, spec)) and model.outcome and not model.outcome.done():
            model.outcome.set_result(None)

    async def report_failed(self, app: str, spec: str, error: MantaError) -> None:
        if model := self._loading(app, spec):
            if model.outcome and not model.outcome.done():
                model.outcome.set_exception(error)
        elif model := next((m for m in self._models.values() if m.app == app and m.state is State.READY), None):
            await self._replacement_failed(model, error)

    def _loading(self, app: str, spec: str) -> Model | None:
        """The model that is loading as this application with this spec; a report of any other is out of date."""
        return next(
            (m for m in self._models.values() if m.app == app and m.spec_hash == spec and m.state is State.LOADING),
            None,
        )

    async def _replacement_failed(self, model: Model, error: MantaError) -> None:
        """A replica of a READY model could not start: when no other is left, the model has failed."""
        if await self._runs(model):
            logger.warning("another replica of model %s failed to load: %s", model.config.name, error)
        elif model.state is State.READY and (model.work is None or model.work.done()):
            model.work = asyncio.create_task(self._load_failed(model, error), name=f"fail {model.config.name}")

    # ---- start and stop ----

    async def start(self) -> None:
        """Read the configs, adopt what runs, and go to work."""
        await asyncio.to_thread(self._catalog.scan)
        for name, config in self._catalog.configs.items():
            self._models[name] = Model(config, spec_hash(config), self._app_name(name))
        await self._reconcile()
        self._cards_version = self._ingresses.tell()
        self._started.set()
        self._loops = [
            asyncio.create_task(self._forever(SCAN_S, self._scan), name="scan"),
            asyncio.create_task(self._forever(CARE_S, self._look_after), name="look after"),
        ]

    async def stop(self) -> None:
        """End the loops; the models stay loaded, for the next controller to adopt."""
        running = self._loops + [m.work for m in self._models.values() if m.work]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _reconcile(self) -> None:
        """Adopt the applications that run with the right spec; delete the others."""
        by_app = {model.app: model for model in self._models.values()}
        for app, status in (await self._apps.statuses()).items():
            model = by_app.get(app)
            if model and status.running and await self._runs(model):
                model.state = State.READY
                logger.info("adopted the running model %s", model.config.name)
            elif not status.deleting:
                logger.info("deleting the application %s: %s", app, "its config changed" if model else "no such model")
                await self._apps.delete(app)

    async def _runs(self, model: Model) -> bool:
        """Does its application run the spec that the config asks for?"""
        try:
            replicas = await self._apps.describe(model.app)
        except Exception as error:  # noqa: BLE001 – whatever ails it, it can't be adopted
            logger.warning("the application of model %s does not answer: %s", model.config.name, error)
            return False
        return bool(replicas) and all(replica["spec_hash"] == model.spec_hash for replica in replicas)

    async def _forever(self, period: float, step: Callable[[], Any]) -> None:
        while True:
            try:
                await step()
            except Exception:
                logger.exception("controller loop %s failed; it goes on", getattr(step, "__name__", step))
            await asyncio.sleep(period)

    # ---- what must happen without being asked ----

    async def _scan(self) -> None:
        """Pick up configs that came, changed or went."""
        async with self._scanning:
            if await asyncio.to_thread(self._catalog.scan):
                self._apply_configs()

    def _apply_configs(self) -> None:
        self._cards_version = self._ingresses.tell()
        configs = self._catalog.configs
        for name in self._models.keys() - configs.keys():
            self._retire(self._models[name])
        for name, config in configs.items():
            spec = spec_hash(config)
            model = self._models.get(name)
            if model is None:
                self._models[name] = Model(config, spec, self._app_name(name), version=self._cards_version)
                self._gone.pop(name, None)
            elif model.spec_hash != spec:
                self._retire(model)

    def _retire(self, old: Model) -> None:
        """Its config went or changed: unload what runs, then go by what the config says by then."""
        name, was_wanted = old.config.name, old.state in (State.LOADING, State.READY)
        old.retired = True

        async def succeed() -> None:
            await self._unload(old)
            if self._models.get(name) is not old:
                return
            config = self._catalog.configs.get(name)
            if config is None:
                del self._models[name]
                self._gone[name] = self._ingresses.tell()
                return
            self._models[name] = successor = Model(config, spec_hash(config), old.app)
            self._publish(successor)
            if was_wanted:
                await self.load(name)

        task = asyncio.create_task(succeed(), name=f"retire {name}")
        self._loops.append(task)
        task.add_done_callback(self._loops.remove)

    async def _look_after(self) -> None:
        """Preload what should be there; unload what is idle."""
        for model in list(self._models.values()):
            if self._preloaded(model) and model.state is not State.READY:
                await self.load(model.config.name)
            elif self._idle_for(model) > (model.config.idle_timeout or float("inf")):
                logger.info("unloading model %s: idle", model.config.name)
                self._begin_unload(model)

    def _preloaded(self, model: Model) -> bool:
        """To be loaded without being asked for."""
        config = model.config
        return not config.disabled and bool(
            config.preload or config.min_replicas or config.name in self._settings.preload
        )

    def _idle_for(self, model: Model) -> float:
        """Seconds without a request; 0 when the model is in use, not loaded, or to be kept."""
        busy = model.state is not State.READY or self._ingresses.in_flight(model.config.name) > 0
        if busy or model.config.pinned or self._preloaded(model):
            return 0.0
        return time.time() - model.last_used

    # ---- load ----

    async def _load(self, model: Model) -> None:
        """LOADING, then READY or FAILED."""
        name = model.config.name
        model.state, model.progress, model.error, model.admitted = State.LOADING, 0.0, None, False
        model.outcome = asyncio.get_running_loop().create_future()
        self._publish(model)
        started = time.monotonic()
        try:
            async with asyncio.timeout(model.config.load_timeout):
                await self._make_room(model)
                await self._forgotten(model)
                await self._apps.deploy(model.app, model.config, tasks(model.config)[0], model.spec_hash)
                await self._outcome(model)
        except Exception as cause:  # noqa: BLE001 – it is what requests are answered with
            await self._load_failed(model, cause)
            return
        finally:
            model.outcome = None
        model.state, model.failures, model.last_used = State.READY, 0, time.time()
        logger.info("model %s is loaded after %.1f s", name, time.monotonic() - started)
        self._publish(model)

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

    async def _load_failed(self, model: Model, cause: Exception) -> None:
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
        cooldown = min(self._settings.cooldown * 2 ** (model.failures - 1), self._settings.max_cooldown)
        model.state, model.error, model.until = State.FAILED, cause, time.time() + cooldown
        logger.warning("model %s failed to load, next try in %.0f s at the earliest: %s", name, cooldown, cause)
        self._publish(model)
        await self._delete(model)

    async def _make_room(self, model: Model) -> None:
        """Evict idle models, least recently used first, until one more fits. Waits while all are busy."""
        async with self._room:
            while self._over_count() or self._short_of_memory():
                idle = [m for m in self._models.values() if self._evictable(m) and m is not model]
                if idle:
                    victim = min(idle, key=lambda m: m.last_used)
                    logger.info("evicting model %s for %s", victim.config.name, model.config.name)
                    await self._unload(victim)
                elif self._over_count():
                    await asyncio.sleep(STATUS_S)
                else:
                    break  # short of memory with nothing to evict: the engine will say whether it fits
            model.admitted = True

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

    # ---- unload ----

    async def _unload(self, model: Model) -> None:
        """Returns when the model is gone."""
        await asyncio.wait([self._begin_unload(model)])

    def _begin_unload(self, model: Model) -> asyncio.Task[None]:
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
            self._publish(model)
            await self._drained(model)
        if model.state is not State.ABSENT:
            await self._delete(model)
            model.state, model.error = State.ABSENT, None
            self._publish(model)

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

    # ---- news ----

    def _model(self, name: str) -> Model:
        if model := self._models.get(name):
            return model
        raise _not_found(name)

    def _publish(self, model: Model) -> None:
        model.version = self._ingresses.tell()


def _not_found(name: str) -> ModelNotFound:
    return ModelNotFound(f'model "{name}" not found. To see available models, call GET /v1/models')
