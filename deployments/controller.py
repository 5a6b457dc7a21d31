"""Which models there are, which are wanted, and what ingresses and replicas say of them."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments.catalog import Catalog, spec_hash
from deployments.errors import MantaError, ModelDisabled, ModelNotFound, NotLoaded, load_failure
from deployments.ingresses import Ingresses
from deployments.lifecycle import Apps, ControllerSettings, Lifecycle, Model
from deployments.metrics import COLD_STARTS, MODELS
from deployments.reporting import Reporting
from deployments.reports import ModelReport
from deployments.states import ModelStatus, Report, State, Update

logger = logging.getLogger("manta.controller")

SCAN_S = 2.0
"""How often the models directory is looked at."""
CARE_S = 1.0
"""How often idle models and models to preload are looked for."""


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
        self._lifecycle = Lifecycle(settings, apps, self._ingresses, self._models)
        self._reporting = Reporting(apps, self._ingresses)
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
        """Start loading, for a request, unless it is loaded, loading, or cooling down. Answers at once."""
        await self._started.wait()
        model = self._model(name)
        if self._load(model):
            COLD_STARTS.labels(name).inc()
        return model.status()

    async def removed(self, name: str) -> None:
        """Return when nothing runs any more of a model whose config went."""
        while (model := self._models.get(name)) and model.retired:
            await asyncio.sleep(0.05)

    async def reload(self) -> dict[str, str]:
        """Read the configs anew; all ingresses know when it returns. Returns the refused files and why."""
        await self._started.wait()
        await self._scan()
        await self._ingresses.told(self._cards_version)
        return dict(self._catalog.errors)

    # ---- called for operators ----

    async def models(self, replicas: bool) -> list[ModelReport]:
        """Every model that is not ABSENT, sorted by name; `replicas`: with what theirs say."""
        await self._started.wait()
        there = sorted(name for name, model in self._models.items() if model.state is not State.ABSENT)
        return await asyncio.gather(*(self._reporting.report(self._models[name], replicas) for name in there))

    async def model(self, name: str) -> ModelReport:
        """One model, with what its replicas say. Raises ModelNotFound."""
        await self._started.wait()
        return await self._reporting.report(self._model(name), True)

    async def loaded(self, name: str) -> None:
        """Load it, and return when it is READY. Raises ModelNotFound, ModelDisabled, or what the load failed with."""
        await self._started.wait()
        if self._model(name).config.disabled:
            raise ModelDisabled(f'model "{name}" is disabled').at("model")
        while (model := self._model(name)).state is not State.READY:
            if self._load(model) or model.state is not State.FAILED:
                await self._lifecycle.settled(model)
            if model.state is State.FAILED and model.error:
                raise load_failure(name, model.error).after(max(0.0, model.until - time.time()))

    async def unload(self, name: str) -> None:
        """Drain and unload; returns when it is gone. Raises ModelNotFound, and NotLoaded.

        It stays so, preloaded or not, until a request or `loaded` asks for it, its config changes, or the controller
        starts anew.
        """
        await self._started.wait()
        model = self._model(name)
        if model.state in (State.ABSENT, State.FAILED):
            raise NotLoaded(f'model "{name}" is not loaded').at("model")
        model.held = True
        await self._lifecycle.unload(model)

    def ingress_nodes(self) -> set[str]:
        """Ids of the Ray nodes that ingresses run on."""
        return self._ingresses.nodes()

    def count_models(self) -> None:
        """Bring the metrics of how many are in which state up to date."""
        states = Counter(model.state for model in self._models.values())
        for state in State:
            MODELS.labels(state.value).set(states[state])

    # ---- called by replicas ----

    async def report_loading(self, app: str, spec: str, progress: float) -> None:
        if (model := self._loading(app, spec)) and progress > model.progress:
            model.progress = progress
            self._lifecycle.publish(model)

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
            self._lifecycle.begin_fail(model, error)

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

    def _load(self, model: Model) -> bool:
        """Start loading, unless it is loaded, loading, or cooling down. Whether it was started."""
        if model.config.name not in self._catalog.configs:
            raise _not_found(model.config.name)
        may_try = model.state is State.ABSENT or (model.state is State.FAILED and time.time() >= model.until)
        if not may_try or model.retired or (model.work and not model.work.done()):
            return False
        model.held = False
        self._lifecycle.begin_load(model)
        return True

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
            await self._lifecycle.unload(old)
            if self._models.get(name) is not old:
                return
            config = self._catalog.configs.get(name)
            if config is None:
                del self._models[name]
                self._gone[name] = self._ingresses.tell()
                return
            self._models[name] = successor = Model(config, spec_hash(config), old.app)
            self._lifecycle.publish(successor)
            if was_wanted:
                self._load(successor)

        task = asyncio.create_task(succeed(), name=f"retire {name}")
        self._loops.append(task)
        task.add_done_callback(self._loops.remove)

    async def _look_after(self) -> None:
        """Preload what should be there; unload what is idle."""
        for model in list(self._models.values()):
            if self._preloaded(model) and model.state is not State.READY and not model.held:
                self._load(model)
            elif self._idle_for(model) > (model.config.idle_timeout or float("inf")):
                logger.info("unloading model %s: idle", model.config.name)
                self._lifecycle.begin_unload(model)

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

    def _model(self, name: str) -> Model:
        if model := self._models.get(name):
            return model
        raise _not_found(name)


def _not_found(name: str) -> ModelNotFound:
    return ModelNotFound(f'model "{name}" not found. To see available models, call GET /v1/models')
