"""The gallery of a running server, by its routes: what the command line asks of it."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Self
from urllib.parse import quote

import httpx

from deployments.errors import MantaError, NotReady
from gallery.galleries import Available, Page
from gallery.index import Entry
from gallery.request import InstallRequest
from gallery.settings import Gallery
from gallery.status import JobStatus, Phase, Progress

RETRY_S = 1.0
RECONNECT_S = 120.0
"""A server that is gone while a job runs is waited for so long: the job goes on when it is back."""
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)  # a stream that is quiet has comments every few seconds
_LOOK = httpx.Timeout(2.0)


class RunningServer:
    """Installs and removes on a server: `async with RunningServer(url, key) as server`."""

    def __init__(self, url: str, key: str = "") -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._job = ""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # The server is ours, not one out there: a proxy of the environment would be in the way.
        self._http = httpx.AsyncClient(base_url=self._url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    @property
    def after_interrupt(self) -> str:
        """What to know when the command is interrupted now."""
        return f"The job goes on. To end it: python -m gallery jobs cancel {self._job}" if self._job else ""

    async def is_ready(self) -> bool:
        """Whether a server answers there. Raises nothing."""
        try:
            return (await self._http.get("/readyz", timeout=_LOOK)).status_code == httpx.codes.OK
        except (httpx.HTTPError, httpx.InvalidURL):
            return False

    async def available(self, search: str = "", tag: str = "", gallery: str = "") -> Page:
        """What can be installed. Raises MantaError with the server's message, as all that follow."""
        wanted = {"search": search, "tag": tag, "gallery": gallery}
        models = await self._call(
            "GET", "/models/available", params={key: text for key, text in wanted.items() if text}
        )
        return Page(tuple(map(_available, models)), len(models))

    async def problems(self) -> dict[str, str]:
        """Gallery → why its index could not be read."""
        galleries = await self._call("GET", "/models/galleries")
        return {one["name"]: one["problem"] for one in galleries if one["problem"]}

    async def install(self, request: InstallRequest, progress: Progress) -> str:
        """Install, and return the model's name when it is there."""
        if request.weights_uri:
            body = {"uri": request.weights_uri, "name": request.name}
            started = await self._call("POST", "/models/import-uri", json=body)
        else:
            started = await self._call("POST", "/models/apply", json={"id": request.id, "name": request.name})
        return await self._finish(started["uuid"], progress)

    async def remove(self, name: str, progress: Progress) -> None:
        """Delete an installed model, and return when it is gone."""
        started = await self._call("POST", f"/models/delete/{quote(name)}")
        await self._finish(started["uuid"], progress)

    async def jobs(self) -> list[JobStatus]:
        """Oldest first."""
        return [_status(view) for view in (await self._call("GET", "/models/jobs")).values()]

    async def cancel(self, uuid: str) -> JobStatus:
        """End an installation; its last status."""
        return _status(await self._call("POST", f"/models/jobs/{quote(uuid, safe='')}/cancel"))

    async def follow(self, uuid: str) -> AsyncGenerator[JobStatus, None]:
        """How the job is doing, to its final status, across restarts of the server.

        Raises NotReady when the server stays away.
        """
        gone_since = None
        while True:
            try:
                async with aclosing(self._events(uuid)) as statuses:
                    async for status in statuses:
                        gone_since = None
                        yield status
                        if status.phase.final:
                            return
            except NotReady as error:
                gone_since = gone_since or time.monotonic()
                if time.monotonic() > gone_since + RECONNECT_S:
                    raise NotReady(f"{error.message}. The job goes on when the server does.") from error
            await asyncio.sleep(RETRY_S)

    async def _finish(self, uuid: str, progress: Progress) -> str:
        """Report the job's progress until it has ended; its model. Raises MantaError when it failed."""
        self._job = uuid
        warned: set[str] = set()
        async with aclosing(self.follow(uuid)) as statuses:
            async for status in statuses:
                progress.phase(status.phase)
                if status.total_bytes:
                    progress.at(status.model, status.current_bytes, status.total_bytes)
                for warning in status.warnings:
                    if warning not in warned:
                        warned.add(warning)
                        progress.warn(warning)
        self._job = ""
        if status.phase is not Phase.COMPLETED:
            raise MantaError(status.error or f"the job was {status.phase}")
        return status.model

    async def _events(self, uuid: str) -> AsyncGenerator[JobStatus, None]:
        """What one stream of events brings. Raises NotReady when it breaks."""
        try:
            async with self._http.stream("GET", f"/models/jobs/{quote(uuid, safe='')}/events") as answer:
                if answer.is_error:
                    await answer.aread()
                    raise self._refusal(answer)
                async for line in answer.aiter_lines():
                    if not line.startswith("data:"):
                        continue
                    event = json.loads(line.removeprefix("data:"))
                    if "uuid" not in event:
                        raise NotReady(_message(event) or "the stream of events broke")
                    yield _status(event)
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    async def _call(self, method: str, path: str, **request: Any) -> Any:
        try:
            answer = await self._http.request(method, path, **request)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from error
        if answer.is_error:
            raise self._refusal(answer)
        try:
            return answer.json()
        except ValueError as error:
            raise MantaError(f"{self._url}{path}: the answer is not JSON; is a Manta server there?") from error

    def _refusal(self, answer: httpx.Response) -> MantaError:
        """The server's error, in its own words where it has some."""
        try:
            said = _message(answer.json())
        except ValueError:
            said = ""
        message = said or f"{answer.request.url}: {answer.status_code} {answer.reason_phrase}"
        if answer.status_code == httpx.codes.UNAUTHORIZED and not self._key:
            message += " (API_KEY in the environment is sent)"
        return (NotReady if answer.status_code in (502, 503, 504) else MantaError)(message)

    def _unreachable(self, error: Exception) -> NotReady:
        return NotReady(f"{self._url} can't be reached: {str(error) or type(error).__name__}")


def _message(body: Any) -> str:
    """Of an error in OpenAI's shape."""
    error = body.get("error") if isinstance(body, Mapping) else None
    return str(error.get("message") or "") if isinstance(error, Mapping) else ""


def _status(view: Mapping[str, Any]) -> JobStatus:
    return JobStatus(
        uuid=view["uuid"],
        phase=Phase(view["phase"]),
        model=view["gallery_model_name"],
        deletion=view["deletion"],
        error=view["error"] or "",
        warnings=tuple(view["warnings"]),
        file_name=view["file_name"],
        current_bytes=view["current_bytes"],
        total_bytes=view["total_bytes"],
        rate=view["rate"],
        eta=view["eta"],
        created=view["created"],
        updated=view["updated"],
    )


def _available(model: Mapping[str, Any]) -> Available:
    """What a list shows of a model; its config and files stay out."""
    entry = Entry(
        name=model["name"],
        description=model["description"],
        license=model["license"],
        urls=tuple(model["urls"]),
        tags=tuple(model["tags"]),
    )
    return Available(entry, Gallery(model["gallery"]["name"], model["gallery"]["url"]), model["installed"])
