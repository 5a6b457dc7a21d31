"""Jobs: their order, their ends, and what a killed process goes on with. Their work is a fake, their store is real."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import DownloadFailed, JobNotFound, NotCancellable, NotReady
from gallery import jobs as jobs_module
from gallery.database import Database
from gallery.job import Job, Rate
from gallery.jobs import Jobs
from gallery.status import JobStatus, Phase, Progress
from gallery.store import GalleryStore, JobRecord
from tests.unit.waiting import until


class Scripted:
    """Work that does what its requests say, and says when it does it."""

    def __init__(self, downloads: bool = True) -> None:
        self.deletion = not downloads
        self.downloads = downloads
        self.log: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    def model(self, request: dict[str, Any]) -> str:
        return str(request.get("model", ""))

    async def plan(self, request: dict[str, Any]) -> dict[str, Any] | None:
        self.log.append(f"plan {request['id']}")
        if request.get("slow_plan"):
            await self.gate(f"plan {request['id']}").wait()
        if request.get("nothing"):
            return None
        return {"name": request.get("finds") or request.get("model") or request["id"], **request}

    async def prepare(self, plan: dict[str, Any], progress: Progress) -> None:
        await self._step("prepare", plan, progress)

    async def commit(self, plan: dict[str, Any], progress: Progress) -> None:
        await self._step("commit", plan, progress)

    async def abandon(self, plan: dict[str, Any]) -> None:
        self.log.append(f"abandon {plan['id']}")
        match plan.get("abandon"):
            case "fail":
                raise OSError("busy")
            case "wait":
                await self.gate(f"abandon {plan['id']}").wait()

    async def _step(self, step: str, plan: dict[str, Any], progress: Progress) -> None:
        self.log.append(f"{step} {plan['id']}")
        match plan.get(step):
            case "wait":
                progress.phase(Phase.DOWNLOADING)
                progress.expect({"a": 100, "b": 100})
                progress.at("a", 50, 100)
                await self.gate(plan["id"]).wait()
            case "fail":
                raise DownloadFailed("GET https://example.com/llama.gguf: 404 Not Found")
            case "break":
                raise ZeroDivisionError("secret")
            case "cancel itself":
                raise asyncio.CancelledError


StartJobs = Callable[..., Any]


@pytest.fixture
def store(tmp_path: Path) -> GalleryStore:
    store = GalleryStore(Database(f"sqlite:///{tmp_path}/manta.db"))
    store.open()
    return store


@pytest.fixture
async def start(store: GalleryStore, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartJobs]:
    """Starts jobs as a new process would; all of them are stopped at the end."""
    monkeypatch.setattr(jobs_module, "LOOK_S", 0.01)
    monkeypatch.setattr(jobs_module, "WATCH_S", 0.02)
    started: list[Jobs] = []

    async def start(*works: Scripted, parallel: int = 2) -> Jobs:
        jobs = Jobs(store, dict(zip(("install", "delete"), works, strict=False)), parallel)
        started.append(jobs)
        await jobs.start()
        return jobs

    yield start
    for jobs in started:
        await jobs.stop()
    store.close()


async def final(jobs: Jobs, uuid: str) -> JobStatus:
    async with asyncio.timeout(10):
        async with aclosing(jobs.watch(uuid)) as statuses:
            return [status async for status in statuses][-1]


# ---- a job's way ----


async def test_a_job_s_way_to_its_end(start: StartJobs, store: GalleryStore) -> None:
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "llama", "prepare": "wait"})
    assert store.jobs()[0].status.phase is Phase.QUEUED, "it is stored before it is answered"
    await until(lambda: jobs.status(uuid).phase is Phase.DOWNLOADING)
    status = jobs.status(uuid)
    assert (status.model, status.file_name) == ("llama", "a")
    assert (status.current_bytes, status.total_bytes, status.progress) == (50, 200, 25.0)
    await until(lambda: store.jobs()[0].status.phase is Phase.DOWNLOADING)
    assert store.jobs()[0].plan == {"name": "llama", "id": "llama", "prepare": "wait"}
    work.gate("llama").set()
    assert (await final(jobs, uuid)).phase is Phase.COMPLETED
    assert jobs.statuses()[uuid].progress == 100.0
    assert work.log == ["plan llama", "prepare llama", "commit llama"]
    assert store.jobs()[0].status.phase is Phase.COMPLETED


async def test_a_job_that_finds_nothing_to_do(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    assert (await final(jobs, await jobs.submit("install", {"id": "a", "nothing": True}))).phase is Phase.COMPLETED
    assert work.log == ["plan a"]


async def test_a_failed_job_says_why_and_leaves_nothing(start: StartJobs, store: GalleryStore) -> None:
    work = Scripted()
    jobs = await start(work)
    status = await final(jobs, await jobs.submit("install", {"id": "a", "prepare": "fail"}))
    assert (status.phase, status.error) == (Phase.FAILED, "GET https://example.com/llama.gguf: 404 Not Found")
    assert work.log == ["plan a", "prepare a", "abandon a"]
    assert store.jobs()[0].status == status


@pytest.mark.parametrize("how", ["break", "cancel itself"])
async def test_what_is_not_ours_goes_to_the_log(how: str, start: StartJobs, caplog: pytest.LogCaptureFixture) -> None:
    jobs = await start(Scripted())
    status = await final(jobs, await jobs.submit("install", {"id": "a", "prepare": how}))
    assert (status.phase, status.error) == (Phase.FAILED, "internal error")
    record = next(record for record in caplog.records if "internal error" in record.message)
    assert record.levelno == logging.ERROR
    assert how == "cancel itself" or (record.exc_info and record.exc_info[0] is ZeroDivisionError)


async def test_what_cannot_be_removed_is_logged_and_the_job_ends(
    start: StartJobs, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = await start(Scripted())
    status = await final(jobs, await jobs.submit("install", {"id": "a", "prepare": "fail", "abandon": "fail"}))
    assert "404" in status.error
    assert "could not all be removed" in caplog.text


async def test_what_was_committed_is_not_taken_back(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    assert (await final(jobs, await jobs.submit("install", {"id": "a", "commit": "fail"}))).phase is Phase.FAILED
    assert "abandon a" not in work.log


async def test_a_database_that_is_away_for_a_while_ends_no_job(
    start: StartJobs, store: GalleryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    await until(lambda: jobs.status(uuid).phase is Phase.DOWNLOADING)

    def away(_: object) -> None:
        raise NotReady("the database is away")

    monkeypatch.setattr(store, "set_statuses", away)
    work.gate("a").set()
    assert (await final(jobs, uuid)).phase is Phase.COMPLETED
    assert "the database is away" in caplog.text


# ---- order ----


async def test_so_many_at_once_and_the_others_in_order(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work, parallel=2)
    uuids = [await jobs.submit("install", {"id": str(i), "prepare": "wait"}) for i in range(4)]
    await until(lambda: "prepare 1" in work.log)
    assert [jobs.status(uuid).phase for uuid in uuids] == [Phase.DOWNLOADING] * 2 + [Phase.QUEUED] * 2
    work.gate("1").set()
    await until(lambda: "prepare 2" in work.log)
    assert jobs.status(uuids[3]).phase is Phase.QUEUED
    for name in "023":
        work.gate(name).set()
    assert [(await final(jobs, uuid)).phase for uuid in uuids] == [Phase.COMPLETED] * 4
    assert [line for line in work.log if "prepare" in line] == [f"prepare {i}" for i in range(4)]


async def test_a_deletion_waits_for_no_download_but_its_own_models(start: StartJobs) -> None:
    install, delete = Scripted(), Scripted(downloads=False)
    jobs = await start(install, delete, parallel=1)
    running = await jobs.submit("install", {"id": "a", "model": "llama", "prepare": "wait"})
    queued = await jobs.submit("install", {"id": "b", "model": "phi"})
    other = await jobs.submit("delete", {"id": "c", "model": "qwen"})
    same = await jobs.submit("delete", {"id": "d", "model": "Llama"})
    after = await jobs.submit("delete", {"id": "e", "model": "phi"})
    assert (await final(jobs, other)).phase is Phase.COMPLETED
    assert [jobs.status(uuid).phase for uuid in (queued, same, after)] == [Phase.QUEUED] * 3
    install.gate("a").set()
    for uuid in (running, queued, same, after):
        assert (await final(jobs, uuid)).phase is Phase.COMPLETED
    assert install.log.index("commit b") >= 0 and delete.log.index("plan d") < delete.log.index("plan e")


async def test_jobs_that_turn_out_to_be_of_one_model(start: StartJobs) -> None:
    """Their names are known when they are planned; by then the other has begun. Each is planned once."""
    work = Scripted()
    jobs = await start(work, parallel=3)
    first = await jobs.submit("install", {"id": "a", "finds": "llama", "prepare": "wait"})
    await until(lambda: "prepare a" in work.log)
    second = await jobs.submit("install", {"id": "b", "finds": "LLAMA"})
    third = await jobs.submit("install", {"id": "c", "finds": "phi"})
    assert (await final(jobs, third)).phase is Phase.COMPLETED
    await until(lambda: jobs.status(second).model == "LLAMA" and jobs.status(second).phase is Phase.QUEUED)
    assert "prepare b" not in work.log
    work.gate("a").set()
    assert (await final(jobs, first)).phase is Phase.COMPLETED
    assert (await final(jobs, second)).phase is Phase.COMPLETED
    assert work.log.count("plan b") == 1
    assert work.log.index("commit a") < work.log.index("prepare b")


async def test_a_job_that_must_wait_keeps_its_place(start: StartJobs, store: GalleryStore) -> None:
    work = Scripted()
    jobs = await start(work, parallel=3)
    await jobs.submit("install", {"id": "a", "model": "llama", "prepare": "wait"})
    second = await jobs.submit("install", {"id": "b", "finds": "llama", "slow_plan": True})
    third = await jobs.submit("install", {"id": "c", "model": "llama"})
    await until(lambda: store.jobs()[1].status.phase is Phase.RESOLVING)
    work.gate("plan b").set()
    await until(lambda: store.jobs()[1].status.phase is Phase.QUEUED)
    assert store.jobs()[1].plan
    work.gate("a").set()
    for uuid in (second, third):
        assert (await final(jobs, uuid)).phase is Phase.COMPLETED
    assert work.log.index("commit b") < work.log.index("plan c")


async def test_a_model_it_was_thought_to_be_of_is_free_again(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    await jobs.submit("install", {"id": "a", "model": "llama", "finds": "phi", "slow_plan": True, "prepare": "wait"})
    await until(lambda: "plan a" in work.log)
    second = await jobs.submit("install", {"id": "b", "model": "llama", "finds": "llama"})
    assert jobs.status(second).phase is Phase.QUEUED
    work.gate("plan a").set()
    assert (await final(jobs, second)).phase is Phase.COMPLETED


# ---- cancelling ----


async def test_cancelling_what_runs(start: StartJobs, store: GalleryStore) -> None:
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    await until(lambda: "prepare a" in work.log)
    statuses = await asyncio.gather(jobs.cancel(uuid), jobs.cancel(uuid))
    assert [status.phase for status in statuses] == [Phase.CANCELLED] * 2
    assert work.log == ["plan a", "prepare a", "abandon a"], "when it is answered all is removed"
    assert store.jobs()[0].status.phase is Phase.CANCELLED
    with pytest.raises(NotCancellable, match="has ended: cancelled"):
        await jobs.cancel(uuid)


async def test_cancelling_what_waits(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work, parallel=1)
    running = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    waiting = await jobs.submit("install", {"id": "b"})
    assert (await jobs.cancel(waiting)).phase is Phase.CANCELLED
    assert jobs.status(running).phase is not Phase.CANCELLED
    assert not any("b" in line.split() for line in work.log)


async def test_cancelling_what_waits_leaves_the_files_of_the_job_it_waits_for(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work, parallel=3)
    await jobs.submit("install", {"id": "a", "finds": "llama", "prepare": "wait"})
    await until(lambda: "prepare a" in work.log)
    second = await jobs.submit("install", {"id": "b", "finds": "llama"})
    await until(lambda: jobs.status(second).model == "llama" and jobs.status(second).phase is Phase.QUEUED)
    assert (await jobs.cancel(second)).phase is Phase.CANCELLED
    assert "abandon b" not in work.log


async def test_cancelling_in_the_moment_it_starts(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    assert (await jobs.cancel(uuid)).phase is Phase.CANCELLED


async def test_what_can_no_longer_be_cancelled(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "commit": "wait"})
    await until(lambda: "commit a" in work.log)
    with pytest.raises(NotCancellable, match="too far"):
        await jobs.cancel(uuid)
    work.gate("a").set()
    assert (await final(jobs, uuid)).phase is Phase.COMPLETED


async def test_what_a_killed_cancellation_needs_is_stored_in_time(
    start: StartJobs, store: GalleryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the job has begun, before it leaves anything; that it was cancelled, before that is removed."""
    monkeypatch.setattr(jobs_module, "LOOK_S", 60)
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "prepare": "wait", "abandon": "wait"})
    await until(lambda: "prepare a" in work.log)
    assert (store.jobs()[0].status.phase, store.jobs()[0].cancelled) == (Phase.RESOLVING, False)
    cancelling = asyncio.create_task(jobs.cancel(uuid))
    await until(lambda: "abandon a" in work.log)
    assert store.jobs()[0].cancelled and not store.jobs()[0].status.phase.final
    work.gate("abandon a").set()
    assert (await cancelling).phase is Phase.CANCELLED


async def test_unknown_jobs(start: StartJobs) -> None:
    jobs = await start(Scripted())
    with pytest.raises(JobNotFound, match="could not find any status for ID 'x'"):
        jobs.status("x")
    with pytest.raises(JobNotFound):
        await jobs.cancel("x")
    with pytest.raises(JobNotFound):
        await anext(jobs.watch("x"))


# ---- watching ----


async def test_every_watcher_sees_a_job_to_its_end(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    watchers = [asyncio.create_task(final(jobs, uuid)) for _ in range(3)]
    leaves = jobs.watch(uuid)
    await anext(leaves)
    await leaves.aclose()
    await until(lambda: "prepare a" in work.log)
    work.gate("a").set()
    assert [status.phase for status in await asyncio.gather(*watchers)] == [Phase.COMPLETED] * 3
    assert (await final(jobs, uuid)).phase is Phase.COMPLETED, "a late one hears it too"


async def test_a_watcher_is_not_told_faster_than_it_can_read(start: StartJobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "WATCH_S", 0.25)
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    await until(lambda: "prepare a" in work.log)
    seen: list[JobStatus] = []

    async def watch() -> None:
        async with aclosing(jobs.watch(uuid)) as statuses:
            seen.extend([status async for status in statuses])

    watching = asyncio.create_task(watch())
    job = jobs.unfinished()[0]
    for done in range(51, 101):
        job.at("a", done, 100)
        await asyncio.sleep(0.01)
    work.gate("a").set()
    await watching
    assert 2 <= len(seen) <= 10, "fifty reports in half a second or a little more"
    assert seen[-1].phase is Phase.COMPLETED


async def test_watchers_end_when_the_server_stops(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    uuid = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    await until(lambda: "prepare a" in work.log)
    watching = asyncio.create_task(final(jobs, uuid))
    await asyncio.sleep(0)
    await jobs.stop()
    assert not (await watching).phase.final


# ---- after a restart ----


async def test_a_stopped_server_goes_on_with_its_jobs(start: StartJobs, store: GalleryStore) -> None:
    work = Scripted()
    jobs = await start(work, parallel=1)
    running = await jobs.submit("install", {"id": "a", "prepare": "wait"})
    waiting = await jobs.submit("install", {"id": "b"})
    await until(lambda: store.jobs()[0].status.current_bytes == 50)
    await jobs.stop()
    assert work.log == ["plan a", "prepare a"], "what was fetched stays, and nothing is begun"
    assert [job.status.phase for job in store.jobs()] == [Phase.DOWNLOADING, Phase.QUEUED]

    again = Scripted()
    again.gate("a").set()
    jobs = await start(again, parallel=1)
    assert jobs.status(running).current_bytes == 50
    assert (await final(jobs, running)).phase is Phase.COMPLETED
    assert (await final(jobs, waiting)).phase is Phase.COMPLETED
    assert again.log == ["prepare a", "commit a", "plan b", "prepare b", "commit b"], "nothing is looked up again"


async def test_a_job_that_is_submitted_twice_by_one_uuid_is_one_job(start: StartJobs) -> None:
    request = {"id": "1", "model": "a"}
    first = await start(Scripted())
    assert await first.submit("install", request, "mine") == "mine"
    assert await first.submit("install", request, "mine") == "mine"
    await first.stop()
    second = await start(Scripted())
    assert await second.submit("install", request, "mine") == "mine"
    assert list(second.statuses()) == ["mine"]


async def test_nothing_begins_while_the_server_stops(start: StartJobs) -> None:
    work = Scripted()
    jobs = await start(work)
    slow = await jobs.submit("install", {"id": "a", "prepare": "wait", "abandon": "wait"})
    await jobs.submit("install", {"id": "b", "prepare": "wait"})
    await jobs.submit("install", {"id": "c"})
    await until(lambda: "prepare a" in work.log and "prepare b" in work.log)
    cancelling = asyncio.create_task(jobs.cancel(slow))
    await until(lambda: "abandon a" in work.log)
    stopping = asyncio.create_task(jobs.stop())
    await until(lambda: len(jobs._waiting) == 2)
    work.gate("abandon a").set()
    assert (await cancelling).phase is Phase.CANCELLED, "what is being cleaned up is waited for"
    await stopping
    assert work.log[-1] == "abandon a"


def interrupted(store: GalleryStore, phase: Phase, **plan: Any) -> str:
    """A job as a process that was killed leaves it."""
    status = JobStatus("killed", Phase.QUEUED, "a")
    store.add_job("install", {"id": "a"}, status)
    store.set_plan("killed", {"name": "a", "id": "a", **plan})
    store.set_statuses([replace(status, phase=phase)])
    return "killed"


async def test_a_job_that_was_being_cancelled_when_the_server_was_killed(start: StartJobs, store: GalleryStore) -> None:
    uuid = interrupted(store, Phase.DOWNLOADING)
    store.set_cancelled(uuid)
    work = Scripted()
    jobs = await start(work)
    assert (await final(jobs, uuid)).phase is Phase.CANCELLED
    assert work.log == ["abandon a"]


async def test_a_job_that_waits_after_a_restart_is_cancelled_with_all_it_had_fetched(
    start: StartJobs, store: GalleryStore
) -> None:
    interrupted(store, Phase.QUEUED, prepare="wait")
    status = JobStatus("second", Phase.QUEUED, "b")
    store.add_job("install", {"id": "b"}, status)
    store.set_plan("second", {"name": "b", "id": "b"})
    store.set_statuses([replace(status, phase=Phase.DOWNLOADING)])
    work = Scripted()
    jobs = await start(work, parallel=1)
    assert (await jobs.cancel("second")).phase is Phase.CANCELLED
    assert "abandon b" in work.log


async def test_jobs_of_a_kind_that_this_version_does_not_know(
    start: StartJobs, store: GalleryStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.add_job("quantize", {}, JobStatus("a", Phase.QUEUED, ""))
    jobs = await start(Scripted())
    assert jobs.statuses() == {}
    assert "quantize" in caplog.text


async def test_old_jobs_are_forgotten(start: StartJobs, store: GalleryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "KEEP", 2)
    jobs = await start(Scripted())
    uuids = []
    for i in range(3):
        uuids.append(await jobs.submit("install", {"id": str(i)}))
        await final(jobs, uuids[-1])
    await until(lambda: list(jobs.statuses()) == uuids[1:])
    await until(lambda: [job.status.uuid for job in store.jobs()] == uuids[1:])
    await jobs.stop()
    store.set_statuses([replace(jobs.status(uuids[1]), updated=1.0)])
    assert list((await start(Scripted())).statuses()) == uuids[2:]


# ---- one job ----


def test_rate_and_time_left() -> None:
    now = 100.0
    rate = Rate(lambda: now)
    assert rate.value() == 0
    for _ in range(40):
        rate.add(1000)
        now += 0.5
    assert rate.value() == pytest.approx(2000, rel=0.1)
    now += 5
    assert rate.value() == pytest.approx(1000, rel=0.1)
    now += 60
    assert rate.value() == 0


def test_what_was_there_before_does_not_count_as_speed() -> None:
    job = Job(JobRecord(1, "install", {}, {}, False, JobStatus("a", Phase.QUEUED, "llama")))
    job.phase(Phase.DOWNLOADING)
    job.expect({"old": 10 << 30, "new": 1000})
    job.at("old", 10 << 30, 10 << 30)
    job.at("new", 100, 1000)
    assert job.status().rate == 0 and job.status().eta is None
    job.at("new", 300, 1000)
    status = job.status()
    assert 0 < status.rate <= 800, "200 bytes, over no less than a quarter of a second"
    assert status.eta == pytest.approx(700 / status.rate)
    job.at("new", 0, 1000)  # it changed at its source
    assert job.status().rate <= status.rate
    assert job.status().current_bytes == 10 << 30


def test_a_size_that_is_not_known() -> None:
    job = Job(JobRecord(1, "install", {}, {}, False, JobStatus("a", Phase.QUEUED, "llama")))
    job.phase(Phase.DOWNLOADING)
    job.expect({"a": 0, "b": 100})
    job.at("a", 50, 0)
    job.at("a", 150, 0)
    status = job.status()
    assert (status.current_bytes, status.total_bytes) == (150, 250)
    assert status.rate > 0 and status.eta is None


def test_a_warning_is_kept_once() -> None:
    job = Job(JobRecord(1, "install", {}, {}, False, JobStatus("a", Phase.QUEUED, "llama", warnings=("one",))))
    for message in ("one", "two", "two"):
        job.warn(message)
    assert job.status().warnings == ("one", "two")
