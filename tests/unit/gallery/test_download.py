"""Downloads from a real server: whole, resumed, side by side, and in all the ways in which servers fail."""

import asyncio
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from deployments.errors import DownloadFailed, InsufficientStorage
from gallery import download as download_module
from gallery import partial as partial_module
from gallery.download import discard, download
from gallery.errors import Busy, Changed, Interrupted
from gallery.network import READ_BUFFER, Network
from gallery.settings import DownloadSettings
from gallery.sources.http import open_remote
from gallery.space import Space
from tests.file_server import FileServer
from tests.unit.waiting import until

U = 1 << 17
"""The sizes here are an eighth of what they'd be in megabytes, and those in the downloader are made so too."""
SETTINGS = DownloadSettings(allow=("127.0.0.1",), stall_timeout=30, retries=3, backoff=0.01, min_free=0)
ONE = replace(SETTINGS, connections=1)
STALLED_S = 0.5
"""In tests where a server stalls. Elsewhere a busy machine must not look like one that does."""


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARGE", "MIN_PIECE", "MAX_PIECE", "WRITE", "SAVE", "HASH"):
        monkeypatch.setattr(download_module, name, getattr(download_module, name) // 8)


@pytest.fixture
def to(tmp_path: Path) -> Path:
    return tmp_path / ".model.gguf.partial"


async def fetch(
    url: str,
    to: Path,
    settings: DownloadSettings = SETTINGS,
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    space: Space | None = None,
) -> str:
    async with Network(settings) as network:
        return await download(await open_remote(network, url), to, settings, report=report, space=space)


def content(path: Path) -> bytes:
    return path.read_bytes()


def sha256(path: Path) -> str:
    return hashlib.sha256(content(path)).hexdigest()


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def keep(path: Path, count: int, then: bytes) -> None:
    """Of a file the first bytes, and `then` in place of the others."""
    path.write_bytes(path.read_bytes()[:count] + then)


def files_beside(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


# ---- whole -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5 * U + 7, 32 * U, 50 * U + 1])
async def test_whole_files(server: FileServer, to: Path, size: int) -> None:
    reports: list[tuple[int, int]] = []
    url = server.add("a", size=size, seed=size)
    found = await fetch(url, to, report=lambda done, total: reports.append((done, total)))
    assert found == sha256(to) == server.sha256("a")
    assert server.served["/a"] == size + bool(size), "and one byte for the look at it"
    assert sorted(reports) == reports
    assert not size or reports[-1] == (size, size)


@pytest.mark.parametrize("fields", [{"chunked": True}, {"ranges": False}, {"etag": ""}, {"etag": "", "chunked": True}])
async def test_servers_that_tell_little(server: FileServer, to: Path, fields: dict[str, object]) -> None:
    url = server.add("a", size=33 * U, seed=1, **fields)
    assert await fetch(url, to) == sha256(to) == server.sha256("a")
    assert len(server.requests) == 2


async def test_large_files_come_over_several_connections(server: FileServer, to: Path) -> None:
    url = server.add("a", size=64 * U, seed=1, rate=40 * U)
    task = asyncio.create_task(fetch(url, to))
    await until(lambda: server.open["/a"] == SETTINGS.connections)
    assert await task == server.sha256("a")


async def test_small_files_come_over_one(server: FileServer, to: Path) -> None:
    await fetch(server.add("a", size=31 * U), to)
    assert len(server.requests) == 2


# ---- failures that pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SETTINGS, ONE], ids=["several", "one"])
@pytest.mark.parametrize(
    "fault",
    [{"cut_after": 3 * U + 5, "cuts": 5}, {"stall_after": 3 * U + 5, "stalls": 2}],
    ids=["cut", "stalled"],
)
async def test_connections_that_break(
    server: FileServer, to: Path, settings: DownloadSettings, fault: dict[str, int]
) -> None:
    size, settings = 40 * U, replace(settings, stall_timeout=STALLED_S if "stalls" in fault else 30)
    async with Network(settings) as network:
        remote = await open_remote(network, server.add("a", size=size, seed=3))
        server.add("a", size=size, seed=3, **fault)
        assert await download(remote, to, settings, report=lambda done, total: None) == server.sha256("a")
    assert sha256(to) == server.sha256("a")
    assert server.served["/a"] <= size + 5 * 2 * READ_BUFFER + 1, "at most what had come in and was not read yet"


async def test_a_server_that_always_cuts_still_gets_there(server: FileServer, to: Path) -> None:
    url = server.add("a", size=5 * U, seed=3, cut_after=U // 2)
    assert await fetch(url, to, ONE) == server.sha256("a")


@pytest.mark.parametrize("fields", [{"ranges": False}, {"etag": ""}, {"chunked": True}])
async def test_what_cannot_be_resumed_starts_again(server: FileServer, to: Path, fields: dict[str, object]) -> None:
    url = server.add("a", size=33 * U, seed=3)
    async with Network(SETTINGS) as network:
        server.add("a", size=33 * U, seed=3, **fields)
        remote = await open_remote(network, url)
        server.add("a", size=33 * U, seed=3, cut_after=20 * U, cuts=2, **fields)
        space = Space(to.parent, 0)
        found = await download(remote, to, SETTINGS, report=lambda done, total: None, space=space)
    assert found == sha256(to) == server.sha256("a")
    assert server.served["/a"] >= (20 + 20 + 33) * U


async def test_a_busy_server_is_asked_again_when_it_says(server: FileServer, to: Path) -> None:
    async with Network(SETTINGS) as network:
        remote = await open_remote(network, server.add("a", size=U))
        server.add("a", size=U, unavailable=1, retry_after=1)
        started = time.monotonic()
        await download(remote, to, SETTINGS, report=lambda done, total: None)
    assert time.monotonic() - started >= 1
    assert len(server.requests) == 3


async def test_a_server_that_wants_fewer_connections(server: FileServer, to: Path) -> None:
    url = server.add("a", size=64 * U, seed=1, rate=60 * U, max_connections=2)
    assert await fetch(url, to) == server.sha256("a")
    assert server.served["/a"] == 64 * U + 1
    refused = len(server.requests) - 1 - 4  # the look, and a request for each piece
    assert 2 <= refused <= 4, "the connections that were refused did not come back"


async def test_a_server_that_restarts(server: FileServer, to: Path) -> None:
    url = server.add("a", size=40 * U, seed=2)
    async with Network(SETTINGS) as network:
        remote = await open_remote(network, url)
        server.add("a", size=40 * U, seed=2, unavailable=2 * SETTINGS.connections)
        settings = replace(SETTINGS, retries=9)
        assert await download(remote, to, settings, report=lambda done, total: None) == server.sha256("a")


# ---- failures that stay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [SETTINGS, ONE], ids=["several", "one"])
async def test_a_server_that_stays_away(server: FileServer, to: Path, settings: DownloadSettings) -> None:
    async with Network(settings) as network:
        remote = await open_remote(network, server.add("a", size=40 * U))
        server.add("a", status=500)
        with pytest.raises(Interrupted, match="500 Internal Server Error"):
            await download(remote, to, settings, report=lambda done, total: None)
    tries = [request for request in server.requests if "if-range" in request.headers]
    assert settings.retries <= len(tries) <= settings.retries * settings.connections


async def test_a_server_that_sends_nothing(server: FileServer, to: Path) -> None:
    settings = replace(ONE, retries=1, stall_timeout=STALLED_S)
    async with Network(settings) as network:
        remote = await open_remote(network, server.add("a", size=U))
        server.add("a", size=U, stall_after=0)
        with pytest.raises(Interrupted, match=r"no byte came for 0\.5 s"):
            await download(remote, to, settings, report=lambda done, total: None)


async def test_what_no_other_try_mends(server: FileServer, to: Path) -> None:
    async with Network(SETTINGS) as network:
        remote = await open_remote(network, server.add("a", size=U))
        server.add("a", status=404)
        with pytest.raises(DownloadFailed, match="404 Not Found"):
            await download(remote, to, SETTINGS, report=lambda done, total: None)
    assert len(server.requests) == 2


async def test_a_file_that_changes_meanwhile(server: FileServer, to: Path) -> None:
    async with Network(SETTINGS) as network:
        remote = await open_remote(network, server.add("a", size=40 * U, seed=1))
        server.add("a", size=40 * U, seed=2)
        with pytest.raises(Changed):
            await download(remote, to, SETTINGS, report=lambda done, total: None)
        remote = await open_remote(network, server.url + "/a")
        assert await download(remote, to, SETTINGS, report=lambda done, total: None) == server.sha256("a")


async def test_no_room(server: FileServer, to: Path) -> None:
    url = server.add("a", size=2 * U)
    with pytest.raises(InsufficientStorage):
        await fetch(url, to, space=Space(to.parent, min_free=1 << 60))
    with pytest.raises(InsufficientStorage):
        await fetch(url, to, space=Space(to.parent, min_free=0, limit=U))
    assert server.served["/a"] == 2, "the looks at it"
    await discard(to)
    assert not files_beside(to)


async def test_a_file_without_a_size_that_grows_over_the_limit(server: FileServer, to: Path) -> None:
    url = server.add("a", size=200 * U, chunked=True)
    with pytest.raises(InsufficientStorage):
        await fetch(url, to, space=Space(to.parent, min_free=0, limit=5 * U))
    assert len(content(to)) < 50 * U


async def test_a_disk_that_is_full(server: FileServer, to: Path) -> None:
    link(to, Path("/dev/full"))
    with pytest.raises(InsufficientStorage, match="No space left"):
        await fetch(server.add("a", size=U), to)


# ---- resumed ---------------------------------------------------------------------------------------------------------


async def interrupt(server: FileServer, to: Path, size: int, settings: DownloadSettings, done: int) -> None:
    """Fetch at least `done` bytes of a file of `size` bytes, and then be cancelled."""
    url = server.add("a", size=size, seed=4, rate=40 * U)
    reached = asyncio.Event()

    def report(so_far: int, total: int) -> None:
        if so_far >= done:
            reached.set()

    task = asyncio.create_task(fetch(url, to, settings, report=report))
    await asyncio.wait_for(reached.wait(), 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: not server.open["/a"])
    server.files["/a"].rate = 0


@pytest.mark.parametrize("settings", [SETTINGS, ONE], ids=["several", "one"])
async def test_a_cancelled_download_goes_on(server: FileServer, to: Path, settings: DownloadSettings) -> None:
    size = 40 * U
    await interrupt(server, to, size, settings, done=10 * U)
    before = server.served["/a"]
    first: list[int] = []
    found = await fetch(server.url + "/a", to, settings, report=lambda done, total: first.append(done))
    assert found == sha256(to) == server.sha256("a")
    assert first[0] > 10 * U
    assert server.served["/a"] - before <= 30 * U + 1


async def test_a_complete_file_is_only_hashed(server: FileServer, to: Path) -> None:
    url = server.add("a", size=40 * U, seed=4)
    await fetch(url, to)
    before = server.served["/a"]
    assert await fetch(url, to) == server.sha256("a")
    assert server.served["/a"] == before + 1


@pytest.mark.parametrize("there", ["other version", "other size", "no record", "garbage", "wrong record", "no version"])
async def test_what_is_there_is_not_believed(server: FileServer, to: Path, there: str) -> None:
    await interrupt(server, to, 8 * U, ONE, done=4 * U)
    record = to.with_name(to.name + ".json")
    keep(to, 0, b"x" * 8 * U)
    match there:
        case "other version":
            server.add("a", size=8 * U, seed=5)
        case "other size":
            server.add("a", size=9 * U, seed=4, etag=json.loads(record.read_text())["version"])
        case "no record":
            record.unlink()
        case "garbage":
            record.write_bytes(b"\xff{")
        case "wrong record":
            record.write_text('{"version": 5, "done": [[1]]}')
        case "no version":
            server.add("a", size=8 * U, seed=4, etag="")
    assert await fetch(server.url + "/a", to) == sha256(to) == server.sha256("a")


async def test_bytes_that_are_gone_are_fetched_again(server: FileServer, to: Path) -> None:
    await interrupt(server, to, 8 * U, ONE, done=4 * U)
    os.truncate(to, U)
    assert await fetch(server.url + "/a", to) == sha256(to) == server.sha256("a")


async def test_after_a_crash_of_the_machine_only_what_was_synced_is_believed(
    server: FileServer, to: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(download_module, "SYNC_S", 0.05)
    await interrupt(server, to, 40 * U, ONE, done=20 * U)
    record = json.loads(to.with_name(to.name + ".json").read_text())
    [[start, synced]] = record["synced"]
    assert start == 0 and 0 < synced <= record["done"][0][1]
    keep(to, synced, bytes(20 * U - synced))  # what a crash leaves of the pages in memory
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another boot\n")
    monkeypatch.setattr(partial_module, "_BOOT_ID", boot_id)
    before = server.served["/a"]
    assert await fetch(server.url + "/a", to) == sha256(to) == server.sha256("a")
    assert server.served["/a"] - before == 40 * U - synced + 1


CHILD = """
import asyncio, sys
from pathlib import Path
from gallery.download import download
from gallery.network import READ_BUFFER, Network
from gallery.settings import DownloadSettings
from gallery.sources.http import open_remote

async def main():
    settings = DownloadSettings(allow=("127.0.0.1",))
    async with Network(settings) as network:
        remote = await open_remote(network, sys.argv[1])
        await download(remote, Path(sys.argv[2]), settings, report=lambda done, total: print(done, flush=True))

asyncio.run(main())
"""


async def test_a_process_that_is_killed(server: FileServer, to: Path) -> None:
    size, mb = 100 << 20, 1 << 20
    url = server.add("a", size=size, seed=6, rate=20 * mb)
    for megabytes in (20, 40, 60):
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, url, str(to), stdout=pipe)
        assert child.stdout is not None
        async for line in child.stdout:
            if int(line) >= megabytes * mb:
                break
        child.send_signal(signal.SIGKILL)
        await child.communicate()
    server.files["/a"].rate = 0
    reports: list[int] = []
    found = await fetch(url, to, report=lambda done, total: reports.append(done))
    assert found == sha256(to) == server.sha256("a")
    assert reports[0] > 30 * mb
    # Each kill costs what was not yet recorded, and what the kernel had taken in: under 8 MB for a connection.
    assert server.served["/a"] < size + 3 * SETTINGS.connections * 8 * mb


async def test_discard(server: FileServer, to: Path) -> None:
    await interrupt(server, to, 8 * U, ONE, done=4 * U)
    assert files_beside(to) == [to.name, f"{to.name}.json"]
    await discard(to)
    await discard(to)
    assert not files_beside(to)


async def test_progress_of_a_slow_server_is_seen_and_recorded(
    server: FileServer, to: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download_module, "WRITE_S", 0.02)
    monkeypatch.setattr(download_module, "SAVE_S", 0.1)
    url = server.add("a", size=4 * U, rate=200_000)
    reports: list[int] = []
    task = asyncio.create_task(fetch(url, to, report=lambda done, total: reports.append(done)))
    await until(lambda: to.with_name(to.name + ".json").exists())
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(reports) >= 2
    assert reports[-1] < 4 * U


# ---- remotes of other kinds ------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """A remote whose reads are as the test says."""

    content: bytes
    errors: list[Exception | None] = field(default_factory=list)
    """Of each read after half of it; None: it just ends."""
    extra: bytes = b""
    """Sent after what was asked for."""
    version: str = "1"
    sha256: str = ""
    ranges: bool = True
    closed: int = 0

    @property
    def size(self) -> int:
        return len(self.content)

    async def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        content = self.content[start:end]
        try:
            if self.errors:
                yield content[: len(content) // 2]
                if error := self.errors.pop(0):
                    raise error
            else:
                yield content + self.extra
        finally:
            self.closed += 1


async def test_a_read_that_ends_early_is_interrupted(to: Path) -> None:
    remote = Scripted(b"hello" * 200_000, errors=[None, Interrupted("broken"), Busy("busy")])
    found = await download(remote, to, SETTINGS, report=lambda done, total: None)
    assert sha256(to) == found == hashlib.sha256(remote.content).hexdigest()
    assert remote.closed == 4


async def test_a_server_that_sends_next_to_nothing_each_time_is_given_up(to: Path) -> None:
    remote = Scripted(b"hello" * 100, errors=[Interrupted(f"broken {i}") for i in range(9)])
    with pytest.raises(Interrupted, match="broken 2"):
        await download(remote, to, SETTINGS, report=lambda done, total: None)


async def test_a_read_that_goes_on_too_long(to: Path) -> None:
    remote = Scripted(b"hello" * 100, extra=b"more")
    found = await download(remote, to, SETTINGS, report=lambda done, total: None)
    assert sha256(to) == found == hashlib.sha256(remote.content).hexdigest()


async def test_an_error_of_the_program_is_not_swallowed(to: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        await download(Scripted(b"hello", errors=[ZeroDivisionError()]), to, SETTINGS, report=lambda done, total: None)


class Shrinking(Scripted):
    """A remote of which nothing is known: when it is read again, it is shorter."""

    size = None  # type: ignore[assignment]

    async def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        yield self.content
        self.content = b"short"
        if error := self.errors.pop(0):
            raise error


async def test_nothing_is_left_of_a_first_try(to: Path) -> None:
    remote = Shrinking(b"long" * 100, errors=[Interrupted("broken"), None], version="", ranges=False)
    found = await download(remote, to, SETTINGS, report=lambda done, total: None)
    assert content(to) == b"short"
    assert found == hashlib.sha256(b"short").hexdigest()
