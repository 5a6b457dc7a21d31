"""ServeApps without Serve."""

import asyncio
import threading

import pytest

from deployments import serve_apps
from deployments.backends.base import Task
from deployments.config import ModelConfig
from deployments.serve_apps import PICKLE_RACE, ServeApps

CONFIG = ModelConfig(name="a", backend="echo", num_cpus=0.1, num_gpus=0, parallel=4)


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
