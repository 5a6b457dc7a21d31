"""The way to a deployment of one replica that is killed under its callers."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, RayTaskError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from api import gallery_handle, sole_replica
from api.gallery_gateway import Offer, Wanted
from api.gallery_handle import GalleryHandle
from api.sole_replica import SoleReplica
from deployments.errors import DeadlineExceeded, JobNotFound, NotReady
from gallery.request import InstallRequest
from gallery.settings import Gallery
from gallery.status import JobStatus, Phase
from tests.unit.paper_handles import Handle, Response, Unary
from tests.unit.script import played

GONE = DeploymentUnavailableError(DeploymentID("Gallery", "api"))
RUNNING = JobStatus("u", Phase.DOWNLOADING, "m", current_bytes=1)
DONE = replace(RUNNING, phase=Phase.COMPLETED)


@pytest.fixture(autouse=True)
def in_a_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sole_replica, "RETRY_S", 0.001)
    monkeypatch.setattr(gallery_handle, "RETRY_S", 0.001)


class Replica:
    """Answers each call with the next of `script`; exceptions are raised. Counts the calls."""

    def __init__(self, *script: Any) -> None:
        self.script = list(script)
        self.calls: list[tuple[Any, ...]] = []
        self.responses: list[Any] = []

    def method(self, name: str) -> Callable[..., Any]:
        async def answer() -> Any:
            step = self.script.pop(0)
            if isinstance(step, Exception):
                raise step
            if isinstance(step, asyncio.Event):
                await step.wait()
            return step

        def remote(*args: Any) -> Any:
            self.calls.append((name, *args))
            self.responses.append(Unary(answer))
            return self.responses[-1]

        return remote

    def events(self, uuid: str) -> Response:
        self.calls.append(("events", uuid))
        self.responses.append(Response(played(self.script.pop(0))))
        return self.responses[-1]

    def sole(self) -> SoleReplica:
        names = (
            "apply",
            "delete",
            "offer",
            "galleries",
            "problems",
            "add_gallery",
            "remove_gallery",
            "jobs",
            "job",
            "reload",
        )
        methods = {name: self.method(name) for name in (*names, "cancel")}
        return SoleReplica(Handle(**methods, events=self.events), "the gallery")

    def gallery(self) -> GalleryHandle:
        return GalleryHandle(self.sole())


def raised(error: Exception) -> RayTaskError:
    """As Serve hands on what a replica raised."""
    return RayTaskError("f", "traceback", error)


async def test_every_method_is_one_of_the_replica() -> None:
    offer = Offer([], 0, ())
    replica = Replica("u", "u", offer, None, [], {}, [], [], {}, RUNNING, RUNNING)
    gallery, request, own = replica.gallery(), InstallRequest(id="x"), Gallery("own", "https://x")
    assert await gallery.apply(request) == "u"
    assert await gallery.delete("m") == "u"
    assert await gallery.offer(Wanted("s")) is offer
    await gallery.reload()
    await gallery.galleries()
    await gallery.problems()
    await gallery.add_gallery(own)
    await gallery.remove_gallery("own")
    await gallery.jobs()
    await gallery.job("u")
    await gallery.cancel("u")
    assert replica.calls == [
        ("apply", request, replica.calls[0][2]),
        ("delete", "m", replica.calls[1][2]),
        ("offer", Wanted("s")),
        ("reload",),
        ("galleries",),
        ("problems",),
        ("add_gallery", own),
        ("remove_gallery", "own"),
        ("jobs",),
        ("job", "u"),
        ("cancel", "u"),
    ]


async def test_what_the_gallery_raises_arrives_as_it_was() -> None:
    replica = Replica(raised(JobNotFound("no job u")))
    with pytest.raises(JobNotFound, match="no job u"):
        await replica.gallery().job("u")
    assert len(replica.calls) == 1


async def test_a_question_is_asked_again_when_the_replica_dies_over_it() -> None:
    replica = Replica(ActorDiedError(), GONE, ActorDiedError(), RUNNING)
    assert await replica.gallery().job("u") == RUNNING
    assert len(replica.calls) == 4


@pytest.mark.parametrize("begin", [lambda g: g.apply(InstallRequest(id="x")), lambda g: g.delete("x")])
async def test_a_job_is_asked_for_again_by_the_same_uuid(begin: Callable[[GalleryHandle], Awaitable[str]]) -> None:
    replica = Replica(ActorDiedError(), "u", "u")
    gallery = replica.gallery()
    await begin(gallery)
    await begin(gallery)
    first, again, other = (call[2] for call in replica.calls)
    assert first == again != other


async def test_what_must_not_happen_twice_is_not_sent_twice() -> None:
    replica = Replica(ActorDiedError(), [])
    with pytest.raises(NotReady, match="look whether it was carried out") as error:
        await replica.gallery().remove_gallery("x")
    assert error.value.retry_after is not None
    assert len(replica.calls) == 1


async def test_what_was_never_sent_may_be_sent_again() -> None:
    replica = Replica(GONE, GONE, "u")
    assert await replica.gallery().apply(InstallRequest(id="x")) == "u"


async def test_an_answer_that_does_not_come_has_a_deadline() -> None:
    replica = Replica(asyncio.Event())
    with pytest.raises(DeadlineExceeded, match="the gallery did not answer"):
        await replica.sole().ask("job", "u", timeout=0.01)
    assert replica.responses[0].cancelled
    with pytest.raises(DeadlineExceeded):
        await Replica(*[GONE] * 1000).sole().ask("job", "u", timeout=0.01)


async def collected(events: AsyncGenerator[JobStatus, None]) -> list[JobStatus]:
    return [status async for status in events]


async def test_events_go_on_after_a_restart() -> None:
    replica = Replica([RUNNING, ActorDiedError()], [GONE], [], [RUNNING, RUNNING], [RUNNING, DONE, RUNNING])
    assert await collected(replica.gallery().events("u")) == [RUNNING, RUNNING, RUNNING, RUNNING, DONE]
    assert all(response.cancelled for response in replica.responses)


async def test_a_long_silence_before_a_restart_is_no_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_handle, "ANSWER_S", 0.05)
    silence = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, silence.set)
    replica = Replica([RUNNING, silence, ActorDiedError()], [DONE])
    assert await collected(replica.gallery().events("u")) == [RUNNING, DONE]


async def test_events_of_an_unknown_job() -> None:
    with pytest.raises(JobNotFound):
        await collected(Replica([raised(JobNotFound("u"))]).gallery().events("u"))


@pytest.mark.parametrize("script", [[[GONE]] * 1000, [[]] * 1000, [[asyncio.Event()]]])
async def test_events_of_a_gallery_that_stays_away_end(monkeypatch: pytest.MonkeyPatch, script: list[Any]) -> None:
    monkeypatch.setattr(gallery_handle, "ANSWER_S", 0.05)
    with pytest.raises(NotReady):
        await collected(Replica(*script).gallery().events("u"))


async def test_a_watcher_who_leaves_ends_the_stream() -> None:
    replica = Replica([RUNNING, asyncio.Event()])
    events = replica.gallery().events("u")
    await anext(events)
    await events.aclose()
    assert replica.responses[0].cancelled


def test_ingresses_import_nothing_that_downloads() -> None:
    heavy = ("aiohttp", "boto3", "gallery.sources")
    code = f"import sys, api.app; print([name for name in {heavy} if name in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
