"""Jobs: begun at once, several side by side, stored so that a killed process goes on with them."""

import asyncio
import logging
import time
import uuid as uuids
from bisect import insort
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from typing import Any, ParamSpec

import orjson

from deployments.errors import JobNotFound, MantaError, NotCancellable, NotReady
from deployments.metrics import GALLERY_JOBS_ENDED
from gallery.job import Job, Work
from gallery.status import JobStatus, Phase
from gallery.store import GalleryStore

P = ParamSpec("P")

logger = logging.getLogger("manta.gallery.jobs")

WATCH_S = 0.25
"""A watcher sees a job's status this often, at most."""
LOOK_S = 0.5
"""How often running jobs are looked at for a change worth storing, such as another phase."""
SAVE_S = 5.0
"""How often their bytes are stored."""
STOP_S = 10.0
"""Time that jobs have, when the server stops, to let go."""
KEEP_S = 7 * 24 * 3600.0
KEEP = 1000
"""Jobs that have ended are kept for so long, and so many of them."""


class Jobs:
    """All jobs. They start in order of submission, those of one model one after the other."""

    def __init__(self, store: GalleryStore, works: Mapping[str, Work], parallel: int) -> None:
        self._store = store
        self._works = works
        self._parallel = parallel
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []  # in order of submission
        self._running: dict[Job, asyncio.Task[None]] = {}
        self._saved: dict[str, JobStatus] = {}  # of running jobs, what is stored
        self._writing = asyncio.Lock()  # a job's last status must not be overtaken by one before it
        self._saver: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Read the stored jobs and go on with those that have not ended."""
        for record in await asyncio.to_thread(self._store.jobs):
            if record.kind not in self._works:
                logger.error("job %s is of the unknown kind %r and is left alone", record.status.uuid, record.kind)
                continue
            job = self._jobs[record.status.uuid] = Job(record)
            if not record.status.phase.final:
                job.phase(Phase.QUEUED)
                self._waiting.append(job)
        if self._waiting:
            logger.info("going on with %d unfinished jobs", len(self._waiting))
        await self._forget_old()
        self._saver = asyncio.create_task(self._save_forever(), name="save jobs")
        self._start_waiting()

    async def stop(self) -> None:
        """Interrupt what runs; it stays unfinished in the database. Watchers end."""
        self._stopping = True
        for job in self._running:
            if job.work and not job.cancelled:
                job.work.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=STOP_S)
        ending = [*self._running.values(), *([self._saver] if self._saver else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    # ---- what clients ask ----

    async def submit(self, kind: str, request: dict[str, Any], uuid: str = "") -> str:
        """The uuid of the job, which is stored by then. One that is given makes a second call harmless."""
        # A client that leaves in between must not leave a job in the database that nobody runs.
        return await asyncio.shield(self._submit(kind, request, uuid or str(uuids.uuid4())))

    def statuses(self) -> dict[str, JobStatus]:
        """uuid → status, in order of submission."""
        return {uuid: job.status() for uuid, job in self._jobs.items()}

    def status(self, uuid: str) -> JobStatus:
        """Raises JobNotFound."""
        return self._job(uuid).status()

    async def cancel(self, uuid: str) -> JobStatus:
        """End a job that hasn't ended, and return when nothing is left of it. Raises JobNotFound and NotCancellable."""
        job = self._job(uuid)
        if (phase := job.status().phase).final:
            raise NotCancellable(f"job {uuid} has ended: {phase}")
        if job.committing:
            raise NotCancellable(f"job {uuid} has come too far to be cancelled: {phase}")
        if not job.cancelled:
            job.cancelled = True
            if job in self._waiting:
                self._waiting.remove(job)
                self._run(job)
            elif job.work:
                job.work.cancel()
        await job.ended.wait()
        return job.status()

    async def watch(self, uuid: str) -> AsyncGenerator[JobStatus, None]:
        """The status now and whenever it changes, to the last one; it ends earlier when the jobs are stopped.

        Raises JobNotFound.
        """
        job = self._job(uuid)
        seen = None
        while True:
            status = job.status()
            if status != seen:
                yield (seen := status)
            if status.phase.final or self._stopping:
                return
            try:
                async with asyncio.timeout(WATCH_S):
                    await job.ended.wait()
            except TimeoutError:
                continue

    def of(self, request: dict[str, Any]) -> list[Job]:
        """Those that were asked for in just these words."""
        wanted = _json(request)
        return [job for job in self._jobs.values() if _json(job.request) == wanted]

    def unfinished(self) -> list[Job]:
        return [job for job in self._jobs.values() if not job.ended.is_set()]

    def _job(self, uuid: str) -> Job:
        if job := self._jobs.get(uuid):
            return job
        raise JobNotFound(f"could not find any status for ID {uuid!r}")

    async def _submit(self, kind: str, request: dict[str, Any], uuid: str) -> str:
        if uuid in self._jobs:
            return uuid
        work = self._works[kind]
        now = time.time()
        status = JobStatus(uuid, Phase.QUEUED, work.model(request), work.deletion, created=now, updated=now)
        job = Job(await asyncio.to_thread(self._store.add_job, kind, request, status))
        self._jobs[job.uuid] = job
        self._queue(job)
        return job.uuid

    # ---- which job runs ----

    def _queue(self, job: Job) -> None:
        insort(self._waiting, job, key=lambda waiting: waiting.number)
        self._start_waiting()

    def _start_waiting(self) -> None:
        """Start what may run now. None overtakes an earlier one of its model, nor, with a download, any other."""
        if self._stopping:
            return
        taken = {_key(job) for job in self._running}
        places = self._parallel - sum(self._works[job.kind].downloads for job in self._running)
        for job in self._waiting.copy():
            downloads = self._works[job.kind].downloads
            if _key(job) not in taken and (places > 0 or not downloads):
                places -= downloads
                self._waiting.remove(job)
                self._run(job)
            taken.add(_key(job))

    def _run(self, job: Job) -> None:
        self._running[job] = asyncio.create_task(self._carry(job), name=f"job {job.uuid}")

    def _must_wait(self, job: Job) -> bool:
        """Whether another job of its model is there before it."""
        earlier = [waiting for waiting in self._waiting if waiting.number < job.number]
        return any(_key(other) == _key(job) for other in (*self._running, *earlier) if other is not job)

    # ---- one job's way ----

    async def _carry(self, job: Job) -> None:
        """Take a job to its end, or as far as it comes before it must wait again or the server stops."""
        try:
            if not job.cancelled:
                job.work = asyncio.create_task(self._work(job))
                await asyncio.wait([job.work])
            if outcome := _outcome(job, self._stopping):
                await self._end(job, *outcome)
        finally:
            del self._running[job]
        if job.ended.is_set():
            self._start_waiting()
        else:
            self._queue(job)

    async def _work(self, job: Job) -> bool:
        """Do it. False: not yet, because it turned out to be of a model that another job is at."""
        work = self._works[job.kind]
        job.phase(Phase.RESOLVING)
        if job.plan is None:
            plan = await work.plan(job.request)
            if plan is None:
                return True
            await asyncio.to_thread(self._store.set_plan, job.uuid, plan)
            job.plan = plan
        if job.model != job.plan["name"]:
            job.named(job.plan["name"])
            self._start_waiting()  # those of the model that it was thought to be of
            if self._must_wait(job):
                job.phase(Phase.QUEUED)
                await self._save([job])
                return False
        await self._save([job])  # it has begun: who cancels it after a restart must clean up
        job.begun = True
        await work.prepare(job.plan, job)
        job.committing = True
        await work.commit(job.plan, job)
        return True

    async def _end(self, job: Job, phase: Phase, error: str) -> None:
        if phase is Phase.CANCELLED:
            await self._written(self._store.set_cancelled, job.uuid)
        if phase is not Phase.COMPLETED and job.plan and job.begun and not job.committing:
            try:
                await self._works[job.kind].abandon(job.plan)
            except Exception:  # the job has its outcome, whatever this was
                logger.exception("job %s (%s): what it left could not all be removed", job.uuid, job.model)
        status = replace(job.status(), phase=phase, error=error, rate=0.0, eta=None, updated=time.time())
        async with self._writing:
            await self._written(self._store.set_statuses, [status])
            job.end(status)
        self._saved.pop(job.uuid, None)
        GALLERY_JOBS_ENDED.labels(job.kind, phase.value).inc()
        level = logging.WARNING if phase is Phase.FAILED else logging.INFO
        logger.log(level, "job %s (%s): %s", job.uuid, job.model, f"{phase}: {error}" if error else phase)
        await self._forget_old()

    # ---- what is stored of it ----

    async def _save_forever(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self._save([job for job in self._running if self._changed(job.status())])

    def _changed(self, status: JobStatus) -> bool:
        """Whether it is worth storing."""
        saved = self._saved.get(status.uuid)
        return saved is None or saved.phase != status.phase or status.updated - saved.updated >= SAVE_S

    async def _save(self, jobs: list[Job]) -> None:
        async with self._writing:
            statuses = [job.status() for job in jobs if not job.ended.is_set()]
            if statuses:
                await self._written(self._store.set_statuses, statuses)
                self._saved |= {status.uuid: status for status in statuses}

    async def _forget_old(self) -> None:
        """Keep the jobs that ended in the last days, and not too many."""
        ended = sorted(
            (status for status in self.statuses().values() if status.phase.final), key=lambda status: -status.updated
        )
        oldest = time.time() - KEEP_S
        forgotten = [status.uuid for status in ended[:KEEP] if status.updated < oldest]
        forgotten += [status.uuid for status in ended[KEEP:]]
        if forgotten:
            await self._written(self._store.forget_jobs, forgotten)
            self._jobs = {uuid: job for uuid, job in self._jobs.items() if uuid not in forgotten}

    async def _written(self, write: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Write, unless the database can't be used at the moment: jobs go on, and a restart does the rest again."""
        try:
            await asyncio.to_thread(write, *args, **kwargs)
        except NotReady as error:
            logger.warning("jobs could not be stored: %s", error.message)


def _json(request: dict[str, Any]) -> bytes:
    """Equal for equal requests, whether they come from a client or from the database."""
    return orjson.dumps(request, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)


def _key(job: Job) -> str:
    """Equal for jobs that must not run at once. Of an unknown model a job is alone."""
    return job.model.casefold() or job.uuid


def _outcome(job: Job, stopping: bool) -> tuple[Phase, str] | None:
    """How a job's work ended; None: it has not, for it must wait again or the server stops."""
    work = job.work
    interrupted = work is None or work.cancelled()
    error = None if work is None or interrupted else work.exception()
    if work and not interrupted and not error and work.result():
        return Phase.COMPLETED, ""
    if job.cancelled:
        return Phase.CANCELLED, ""
    if isinstance(error, MantaError):
        return Phase.FAILED, error.message
    if error or (interrupted and not stopping):
        logger.error("job %s (%s): internal error", job.uuid, job.model, exc_info=error)
        return Phase.FAILED, "internal error"
    return None
