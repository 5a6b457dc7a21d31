"""ModelController with applications that exist only on paper."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deployments import controller as module
from deployments import ingresses, lifecycle
from deployments.backends.base import Task
from deployments.config import ModelConfig, ModelDefaults
from deployments.controller import ModelController
from deployments.errors import ModelDisabled, ModelLoadFailed, ModelNotFound, NotLoaded
from deployments.lifecycle import ControllerSettings
from deployments.metrics import REGISTRY
from deployments.reports import ReplicaReport
from deployments.states import InUse, Report, State, Update


@dataclass
class AppStatus:
    running: bool = False
    failed: bool = False
    deleting: bool = False
    message: str = ""


@dataclass
class PaperApps:
    """Applications as dictionary entries; `on_deploy` plays the replica."""

    controller: ModelController | None = None
    apps: dict[str, AppStatus] = field(default_factory=dict)
    specs: dict[str, str] = field(default_factory=dict)
    busy: dict[str, int] = field(default_factory=dict)
    hung: bool = False
    """Replicas don't answer."""
    log: list[str] = field(default_factory=list)
    on_deploy: Callable[["PaperApps", str, str], Awaitable[None]] | None = None

    async def deploy(self, app: str, config: ModelConfig, task: Task, spec_hash: str) -> None:
        self.log.append(f"deploy {app}")
        self.apps[app], self.specs[app] = AppStatus(), spec_hash
        await (self.on_deploy or PaperApps.comes_up)(self, app, spec_hash)

    async def comes_up(self, app: str, spec_hash: str) -> None:
        self.apps[app].running = True
        assert self.controller
        await self.controller.report_ready(app, spec_hash)

    async def delete(self, app: str) -> None:
        self.log.append(f"delete {app}")
        self.apps.pop(app, None)

    async def statuses(self) -> dict[str, Any]:
        return dict(self.apps)

    async def describe(self, app: str) -> list[dict[str, Any]]:
        return [{"spec_hash": self.specs[app], "slots_busy": self.busy.get(app, 0), "queued": 0}]

    async def report(self, app: str) -> list[ReplicaReport]:
        if self.hung:
            raise TimeoutError
        return [ReplicaReport("n-1", 7, {"rss": 100}, {"slots_busy": self.busy.get(app, 0), "queued": 0}, 123.0)]


class TestIngress:
    """Syncs as `api.dispatch` does, and keeps what it was told."""

    __test__ = False

    def __init__(self, controller: ModelController, name: str = "i1", node: str = "") -> None:
        self.controller, self.name, self.node = controller, name, node
        self.epoch, self.version = "", -1
        self.states: dict[str, State] = {}
        self.update: Update | None = None
        self.in_use: dict[str, InUse] = {}
        self.cards: list[str] = []

    async def sync(self) -> Update:
        report = Report(self.name, self.epoch, self.version, dict(self.in_use), self.node)
        self.update = u = await self.controller.sync(report)
        self.states |= {name: status.state for name, status in u.statuses.items()}
        if u.cards is not None:
            self.cards = [card.name for card in u.cards]
        self.epoch, self.version = u.epoch, u.version
        return u

    async def until(self, name: str, state: State) -> None:
        async with asyncio.timeout(5):
            while self.states.get(name) is not state:
                await self.sync()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"CARE_S": 0.02, "SCAN_S": 0.02}.items():
        monkeypatch.setattr(module, name, seconds)
    monkeypatch.setattr(lifecycle, "STATUS_S", 0.01)
    for name, seconds in {"SYNC_S": 0.05, "INGRESS_TIMEOUT_S": 0.3}.items():
        monkeypatch.setattr(ingresses, name, seconds)


def write(models: Path, name: str, **fields: Any) -> None:
    lines = [f"name: {name}", "backend: echo", *(f"{key}: {value}" for key, value in fields.items())]
    (models / f"{name}.yaml").write_text("\n".join(lines))


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[tuple[ModelController, PaperApps]]]]:
    made: list[ModelController] = []

    async def build(apps: PaperApps | None = None, **settings: Any) -> tuple[ModelController, PaperApps]:
        apps = apps or PaperApps()
        settings.setdefault("memory_headroom", 0.0)
        controller = ModelController(
            ControllerSettings(models_path=str(tmp_path), **settings), apps, lambda name: f"m-{name}"
        )
        apps.controller = controller
        made.append(controller)
        await controller.start()
        return controller, apps

    yield build
    for controller in made:
        await controller.stop()


async def test_load_then_idle_then_gone(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a", idle_timeout=0.2)
    controller, apps = await make()
    ingress = TestIngress(controller)
    await ingress.sync()
    assert ingress.cards == ["a"]
    await controller.load("a")
    await ingress.until("a", State.READY)
    await ingress.until("a", State.DRAINING)
    await ingress.until("a", State.ABSENT)
    assert apps.log == ["deploy m-a", "delete m-a"]


async def test_a_model_in_use_is_not_unloaded_for_being_idle(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a", idle_timeout=0.1)
    controller, _ = await make()
    ingress = TestIngress(controller)
    ingress.in_use["a"] = InUse(1, time.time())
    await controller.load("a")
    await ingress.until("a", State.READY)
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        await ingress.sync()
        assert ingress.states["a"] is State.READY
    ingress.in_use["a"] = InUse(0, time.time())
    await ingress.until("a", State.ABSENT)


async def test_a_pinned_model_stays(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a", idle_timeout=0.05, pinned="true")
    write(tmp_path, "b", idle_timeout=0.05)
    controller, _ = await make()
    ingress = TestIngress(controller)
    await asyncio.gather(controller.load("a"), controller.load("b"))
    await ingress.until("b", State.READY)
    await ingress.until("b", State.ABSENT)
    assert ingress.states["a"] is State.READY


async def test_preloaded_models_come_by_themselves(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a", preload="true", idle_timeout=0.05)
    write(tmp_path, "b")
    write(tmp_path, "c")
    controller, _ = await make(preload=("b",))
    ingress = TestIngress(controller)
    await ingress.until("a", State.READY)
    await ingress.until("b", State.READY)
    assert ingress.states["c"] is State.ABSENT


async def test_a_failed_load_says_why_and_cools_down_longer_each_time(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")

    async def fails(apps: PaperApps, app: str, spec: str) -> None:
        assert apps.controller
        await apps.controller.report_failed(app, spec, ModelLoadFailed("no such tensor"))

    controller, apps = await make(PaperApps(on_deploy=fails), cooldown=0.2)
    ingress = TestIngress(controller)
    cooldowns = []
    for _ in range(3):
        await controller.load("a")
        ingress.states.clear()
        before = time.time()
        await ingress.until("a", State.FAILED)
        status = (await controller.load("a")) if ingress.update else None
        assert status and status.state is State.FAILED and "no such tensor" in str(status.error)
        cooldowns.append(status.until - before)
        async with asyncio.timeout(5):
            while time.time() < status.until or (
                controller._models["a"].work and not controller._models["a"].work.done()
            ):
                await asyncio.sleep(0.01)
    assert apps.log.count("deploy m-a") == 3, "no try during the cool-down"
    assert cooldowns[0] < cooldowns[1] < cooldowns[2]
    assert not apps.apps, "nothing is left of a failed load"


async def test_a_replica_that_dies_without_a_word_is_noticed(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")

    async def dies(apps: PaperApps, app: str, spec: str) -> None:
        apps.apps[app] = AppStatus(failed=True, message="The actor died: SIGSEGV")

    controller, _ = await make(PaperApps(on_deploy=dies))
    ingress = TestIngress(controller)
    await controller.load("a")
    await ingress.until("a", State.FAILED)
    assert "SIGSEGV" in str((await controller.load("a")).error)


async def test_a_load_that_takes_too_long_is_given_up(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a", load_timeout=0.1)

    async def hangs(apps: PaperApps, app: str, spec: str) -> None:
        apps.apps[app].message = "waiting for 1 GPU"

    controller, _ = await make(PaperApps(on_deploy=hangs))
    ingress = TestIngress(controller)
    await controller.load("a")
    await ingress.until("a", State.FAILED)
    assert "waiting for 1 GPU" in str((await controller.load("a")).error)


async def test_progress_reaches_the_ingress(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")

    async def slowly(apps: PaperApps, app: str, spec: str) -> None:
        assert apps.controller
        await apps.controller.report_loading(app, spec, 0.5)

    controller, _ = await make(PaperApps(on_deploy=slowly))
    ingress = TestIngress(controller)
    await controller.load("a")
    async with asyncio.timeout(5):
        while (await ingress.sync()).statuses.get("a", None) is None or ingress.update.statuses["a"].progress != 0.5:  # type: ignore[union-attr]
            pass


async def test_draining_waits_for_every_ingress_and_every_request(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    controller, apps = await make()
    one, two = TestIngress(controller, "one"), TestIngress(controller, "two")
    await controller.load("a")
    await one.until("a", State.READY)
    await two.until("a", State.READY)
    one.in_use["a"] = InUse(1, time.time())
    await one.sync()
    unload = asyncio.create_task(controller.unload("a"))
    await one.until("a", State.DRAINING)
    await one.sync()
    assert "m-a" in apps.apps, "ingress two has not seen DRAINING, and one has a request running"
    await two.until("a", State.DRAINING)
    await asyncio.gather(one.sync(), two.sync())
    assert "m-a" in apps.apps, "one has a request running"
    one.in_use["a"] = InUse(0, time.time())
    apps.busy["m-a"] = 1
    await asyncio.gather(one.sync(), two.sync())
    assert "m-a" in apps.apps, "the replica has a request running"
    apps.busy["m-a"] = 0
    async with asyncio.timeout(5):
        while not unload.done():
            await asyncio.gather(one.sync(), two.sync())
    assert apps.log[-1] == "delete m-a"


async def test_a_dead_ingress_does_not_hold_up_draining(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    controller, apps = await make()
    dead = TestIngress(controller, "dead")
    dead.in_use["a"] = InUse(3, time.time())
    await controller.load("a")
    await dead.until("a", State.READY)
    async with asyncio.timeout(5):
        await controller.unload("a")
    assert not apps.apps


async def test_the_least_recently_used_idle_model_makes_room(make: Any, tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, name)
    controller, _ = await make(max_active_models=2)
    ingress = TestIngress(controller)
    for name in "ab":
        await controller.load(name)
        await ingress.until(name, State.READY)
    ingress.in_use["a"] = InUse(0, time.time() + 1)
    await ingress.sync()
    await controller.load("c")
    await ingress.until("c", State.READY)
    assert (ingress.states["a"], ingress.states["b"]) == (State.READY, State.ABSENT)


async def test_a_load_waits_while_all_others_are_busy(make: Any, tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path, name)
    controller, apps = await make(max_active_models=1)
    ingress = TestIngress(controller)
    await controller.load("a")
    await ingress.until("a", State.READY)
    ingress.in_use["a"] = InUse(1, time.time())
    await ingress.sync()
    await controller.load("b")
    await ingress.until("b", State.LOADING)
    await ingress.sync()
    assert ingress.states["a"] is State.READY and "deploy m-b" not in apps.log
    ingress.in_use["a"] = InUse(0, time.time())
    await ingress.until("b", State.READY)
    assert ingress.states["a"] is State.ABSENT


async def test_configs_that_come_change_and_go(make: Any, tmp_path: Path) -> None:
    controller, apps = await make()
    ingress = TestIngress(controller)
    await ingress.sync()
    assert ingress.cards == []
    write(tmp_path, "a")
    await ingress.until("a", State.ABSENT)
    await controller.load("a")
    await ingress.until("a", State.READY)
    first_spec = apps.specs["m-a"]
    write(tmp_path, "a", context_size=123)
    await ingress.until("a", State.DRAINING)
    await ingress.until("a", State.READY)
    assert apps.specs["m-a"] != first_spec, "it was loaded, so it is loaded again, with the new config"
    (tmp_path / "a.yaml").unlink()
    await ingress.until("a", State.ABSENT)
    async with asyncio.timeout(5):
        while ingress.cards:
            await ingress.sync()
        while apps.apps:
            await ingress.sync()
    with pytest.raises(ModelNotFound):
        await controller.load("a")


async def test_reload_reports_refused_files_and_keeps_the_others(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "good")
    (tmp_path / "bad.yaml").write_text("name: bad\nbackend: echo\ncontext_size: many\n")
    controller, _ = await make()
    errors = await controller.reload()
    assert len(errors) == 1 and "context_size" in next(iter(errors.values()))
    assert [card.name for card in controller._catalog.cards()] == ["good"]


async def test_after_a_reload_every_live_ingress_knows_the_new_model(make: Any, tmp_path: Path) -> None:
    controller, _ = await make()
    ingress = TestIngress(controller)
    await ingress.sync()
    write(tmp_path, "a")

    async def slowly() -> None:
        while True:
            await asyncio.sleep(0.1)
            await ingress.sync()

    syncing = asyncio.create_task(slowly())
    await controller.reload()
    assert ingress.cards == ["a"]
    syncing.cancel()


async def test_a_dead_ingress_does_not_hold_a_reload_up(make: Any, tmp_path: Path) -> None:
    controller, _ = await make()
    await TestIngress(controller).sync()
    write(tmp_path, "a")
    async with asyncio.timeout(5):
        await controller.reload()


async def test_removed_returns_when_nothing_runs_any_more(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    controller, apps = await make()
    ingress = TestIngress(controller)
    await controller.load("a")
    await ingress.until("a", State.READY)
    apps.busy["m-a"] = 1
    (tmp_path / "a.yaml").unlink()
    await ingress.until("a", State.DRAINING)
    removed = asyncio.create_task(controller.removed("a"))
    await ingress.sync()
    await ingress.sync()
    assert not removed.done(), "a request still runs"
    apps.busy["m-a"] = 0
    await ingress.until("a", State.ABSENT)
    await removed
    assert not apps.apps
    await controller.removed("never there")


async def test_a_new_controller_adopts_what_runs_and_deletes_strays(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    write(tmp_path, "b")
    first, apps = await make()
    ingress = TestIngress(first)
    for name in "ab":
        await first.load(name)
        await ingress.until(name, State.READY)
    await first.stop()
    apps.specs["m-b"] = "an older spec"
    apps.apps["m-stray"] = AppStatus(running=True)
    apps.log.clear()
    second, _ = await make(apps)
    ingress.controller, ingress.states = second, {}
    update = await ingress.sync()
    assert update.whole
    assert ingress.states == {"a": State.READY, "b": State.ABSENT}
    assert sorted(apps.log) == ["delete m-b", "delete m-stray"]


async def test_an_idle_report_is_answered_within_the_period_and_news_at_once(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    controller, _ = await make()
    ingress = TestIngress(controller)
    await ingress.sync()
    update = await ingress.sync()
    assert update.statuses == {} and update.cards is None
    waiting = asyncio.create_task(ingress.sync())
    await controller.load("a")
    assert (await waiting).statuses["a"].state in (State.LOADING, State.READY)


def test_defaults_reach_the_models(tmp_path: Path) -> None:
    write(tmp_path, "a")
    settings = ControllerSettings(models_path=str(tmp_path), defaults=ModelDefaults(parallel=3, idle_timeout=7))
    controller = ModelController(settings, PaperApps(), str)
    controller._catalog.scan()
    config = controller._catalog.configs["a"]
    assert (config.parallel, config.idle_timeout) == (3, 7)


async def test_a_ready_model_whose_last_replica_cannot_come_back_has_failed(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    controller, apps = await make()
    ingress = TestIngress(controller)
    await controller.load("a")
    await ingress.until("a", State.READY)
    spec = apps.specs["m-a"]
    await controller.report_failed("m-a", spec, ModelLoadFailed("out of memory"))
    await ingress.sync()
    assert ingress.states["a"] is State.READY, "another replica runs"
    apps.specs["m-a"] = "nobody answers"
    await controller.report_failed("m-a", spec, ModelLoadFailed("out of memory"))
    await ingress.until("a", State.FAILED)
    assert not apps.apps


# ---- what operators ask and do ----


async def test_reports_tell_state_use_and_replicas(make: Any, tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path, name)

    async def only_a(apps: PaperApps, app: str, spec: str) -> None:
        assert apps.controller
        if app == "m-a":
            await apps.comes_up(app, spec)
        elif app == "m-b":
            await apps.controller.report_failed(app, spec, ModelLoadFailed("no such tensor"))

    controller, _ = await make(PaperApps(on_deploy=only_a))
    ingress = TestIngress(controller)
    assert await controller.models(True) == []
    with pytest.raises(ModelLoadFailed, match="no such tensor"):
        await controller.loaded("b")
    await controller.loaded("a")
    ingress.in_use["a"] = InUse(2, 1_700_000_000.0)
    await ingress.sync()
    a, b = await controller.models(True)
    assert (a.name, a.backend, a.state, a.in_flight, a.last_used) == ("a", "echo", State.READY, 2, 1_700_000_000.0)
    assert (a.replicas[0].memory, a.loaded_at) == ({"rss": 100}, 123.0)
    assert (b.name, b.state, b.error, b.replicas) == ("b", State.FAILED, "no such tensor", [])
    assert [model.replicas for model in await controller.models(False)] == [[], []], "they weren't asked"
    never = await controller.model("c")
    assert (never.state, never.last_used, never.loaded_at) == (State.ABSENT, 0.0, 0.0)
    with pytest.raises(ModelNotFound):
        await controller.model("d")


async def test_a_model_whose_replicas_hang_is_reported_without_them(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    controller, apps = await make()
    await controller.loaded("a")
    apps.hung = True
    report = await controller.model("a")
    assert (report.state, report.replicas) == (State.READY, [])


async def test_nodes_of_live_ingresses(make: Any) -> None:
    controller, _ = await make()
    for name, node in (("one", "n-1"), ("two", "n-1"), ("three", "n-2"), ("old", "")):
        await TestIngress(controller, name, node).sync()
    assert controller.ingress_nodes() == {"n-1", "n-2"}


async def test_who_loads_waits_until_it_is_ready(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    up = asyncio.Event()

    async def when_told(apps: PaperApps, app: str, spec: str) -> None:
        await up.wait()
        await apps.comes_up(app, spec)

    controller, apps = await make(PaperApps(on_deploy=when_told))
    waiting = [asyncio.create_task(controller.loaded("a")) for _ in range(2)]
    async with asyncio.timeout(5):
        while not apps.log:
            await asyncio.sleep(0)
    assert not any(task.done() for task in waiting)
    waiting[0].cancel()  # this client left: the load goes on
    up.set()
    await waiting[1]
    assert (await controller.model("a")).state is State.READY
    await controller.loaded("a")
    assert apps.log == ["deploy m-a"]


@pytest.mark.parametrize("cooldown", [0.0, 30.0])
async def test_who_loads_is_told_why_it_failed(make: Any, tmp_path: Path, cooldown: float) -> None:
    write(tmp_path, "a")

    async def fails(apps: PaperApps, app: str, spec: str) -> None:
        assert apps.controller
        await apps.controller.report_failed(app, spec, ModelLoadFailed("no such tensor"))

    controller, apps = await make(PaperApps(on_deploy=fails), cooldown=cooldown)
    with pytest.raises(ModelLoadFailed, match="no such tensor") as failure:
        await controller.loaded("a")
    assert failure.value.retry_after is not None
    assert cooldown - 5 < failure.value.retry_after <= cooldown
    assert apps.log.count("deploy m-a") == 1


async def test_a_disabled_model_is_not_loaded(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a", disabled="true")
    controller, apps = await make()
    with pytest.raises(ModelDisabled):
        await controller.loaded("a")
    with pytest.raises(ModelNotFound):
        await controller.loaded("b")
    assert apps.log == []


async def test_only_what_is_loaded_can_be_unloaded(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")
    controller, _ = await make()
    with pytest.raises(NotLoaded):
        await controller.unload("a")
    with pytest.raises(ModelNotFound):
        await controller.unload("b")


async def test_a_load_in_progress_can_be_broken_off(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "a")

    async def hangs(apps: PaperApps, app: str, spec: str) -> None:
        await asyncio.Event().wait()

    controller, apps = await make(PaperApps(on_deploy=hangs))
    ingress = TestIngress(controller)
    await controller.load("a")
    await ingress.until("a", State.LOADING)
    await controller.unload("a")
    assert (await controller.model("a")).state is State.ABSENT
    assert not apps.apps


@pytest.mark.parametrize("fields", [{"preload": "true"}, {"min_replicas": 1}, {"pinned": "true"}])
async def test_what_was_unloaded_by_hand_stays_so_until_it_is_asked_for(
    make: Any, tmp_path: Path, fields: dict[str, Any]
) -> None:
    write(tmp_path, "a", **fields)
    controller, apps = await make()
    ingress = TestIngress(controller)
    await controller.loaded("a")
    unloading = asyncio.create_task(controller.unload("a"))
    await ingress.until("a", State.ABSENT)
    await unloading
    for _ in range(3):
        await controller._look_after()
    assert (await controller.model("a")).state is State.ABSENT
    await controller.load("a")
    await ingress.until("a", State.READY)
    assert apps.log == ["deploy m-a", "delete m-a", "deploy m-a"]


def counted(sample: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(sample, labels) or 0.0


async def test_loads_are_counted_by_who_asked_for_them(make: Any, tmp_path: Path) -> None:
    write(tmp_path, "counted-cold")
    write(tmp_path, "counted-warm", preload="true")
    controller, apps = await make(cooldown=60.0)
    ingress = TestIngress(controller)
    await controller.load("counted-cold")
    await controller.load("counted-cold")  # of another request: it is loading
    for name in ("counted-cold", "counted-warm"):
        await ingress.until(name, State.READY)
    assert counted("manta_cold_starts_total", model="counted-cold") == 1
    assert counted("manta_cold_starts_total", model="counted-warm") == 0
    assert counted("manta_model_load_seconds_count", model="counted-cold") == 1
    assert counted("manta_model_load_seconds_count", model="counted-warm") == 1
    controller.count_models()
    assert counted("manta_models", state="ready") == 2

    await controller.unload("counted-cold")
    apps.on_deploy = fails
    await controller.load("counted-cold")
    await ingress.until("counted-cold", State.FAILED)
    assert counted("manta_model_load_failures_total", model="counted-cold") == 1
    assert counted("manta_model_load_seconds_count", model="counted-cold") == 1
    assert counted("manta_model_evictions_total", model="counted-cold", reason="count") == 0, "it was unloaded by hand"
    controller.count_models()
    assert (counted("manta_models", state="ready"), counted("manta_models", state="failed")) == (1, 1)


async def fails(apps: PaperApps, app: str, spec_hash: str) -> None:
    assert apps.controller
    await apps.controller.report_failed(app, spec_hash, ModelLoadFailed("no such file"))


@pytest.mark.parametrize("reason", ["count", "memory"])
async def test_evictions_are_counted_with_their_reason(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    victim = f"counted-{reason}"
    write(tmp_path, victim)
    write(tmp_path, "counted-next")
    controller, apps = await make(max_active_models=1 if reason == "count" else 0)
    ingress = TestIngress(controller)
    await controller.load(victim)
    await ingress.until(victim, State.READY)
    if reason == "memory":
        monkeypatch.setattr(controller._lifecycle, "_short_of_memory", lambda: f"m-{victim}" in apps.apps)
    await controller.load("counted-next")
    await ingress.until("counted-next", State.READY)
    assert counted("manta_model_evictions_total", model=victim, reason=reason) == 1
