"""ServeApps without Serve."""

import asyncio
import threading
from dataclasses import replace

import pytest

from deployments import serve_apps
from deployments.backends.base import Task
from deployments.config import ModelConfig
from deployments.serve_apps import PICKLE_RACE, REPLICAS, ServeApps

CONFIG = ModelConfig(name="a", backend="echo", num_cpus=0.1, num_gpus=0, parallel=4)


@pytest.mark.parametrize("task", REPLICAS)
def test_every_replica_class_has_what_the_controller_asks_for(task: Task) -> None:
    for method in ("stats", "close", "describe", "report", "check_health"):
        assert callable(getattr(REPLICAS[task], method))
    assert "__call__" not in vars(REPLICAS[task]), "every app's top deployment would open an HTTP port"


@pytest.mark.parametrize(
    ("task", "own", "expected"),
    [(Task.CHAT, None, 3), (Task.EMBEDDING, None, 32), (Task.SOUND, None, 1), (Task.RERANK, 5.0, 5)],
)
def test_autoscaling_aims_at_what_suits_the_task(task: Task, own: float | None, expected: float) -> None:
    target = ServeApps("models", "api")._target("m-a", replace(CONFIG, target_ongoing_requests=own), task, "hash")
    scaling = target.target._bound_deployment._deployment_config.autoscaling_config
    assert scaling.target_ongoing_requests == expected


async def deploy(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> int:
    """How often Serve was asked, when it raises these one after the other."""
    left, calls = list(errors), 0

    def run_many(targets: object, **_: object) -> None:
        nonlocal calls
        calls += 1
        if left:
            raise left.pop(0)

    monkeypatch.setattr(serve_apps.serve, "run_many", run_many)
    await ServeApps("models", "api").deploy("m-a", CONFIG, Task.CHAT, "hash")
    return calls


async def test_rays_pickling_race_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    race = ValueError(f"<module 'x'> {PICKLE_RACE}")
    assert await deploy(monkeypatch, race, race) == 3


async def test_another_error_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="num_cpus"):
        await deploy(monkeypatch, ValueError("num_cpus is negative"))


async def test_a_cancelled_deploy_ends_only_with_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    began, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def run_many(targets: object, **_: object) -> None:
        began.set()
        assert may_end.wait(10)
        ended.set()

    monkeypatch.setattr(serve_apps.serve, "run_many", run_many)
    deploying = asyncio.create_task(ServeApps("models", "api").deploy("m-a", CONFIG, Task.CHAT, "hash"))
    await asyncio.to_thread(began.wait, 10)
    deploying.cancel()
    await asyncio.sleep(0)
    assert not deploying.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await deploying
    assert ended.is_set()
