"""The source of https:// and http://: what a look at a file finds, and reads that notice when it has changed."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Changed, Interrupted
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.base import Remote
from gallery.sources.http import HTTP, open_remote
from tests.file_server import FileServer

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with Network(DownloadSettings(allow=("127.0.0.1",), stall_timeout=5)) as network:
        yield network


async def read(remote: Remote, start: int = 0, end: int | None = None) -> bytes:
    async with aclosing(remote.read(start, end)) as blocks:
        return b"".join([block async for block in blocks])


async def test_locate(server: FileServer, network: Network) -> None:
    found = await HTTP(network).locate(server.add("a", CONTENT, etag='"v1"'))
    remote = found.remote
    assert (remote.size, remote.version, remote.sha256, remote.ranges) == (len(CONTENT), '"v1"', "", True)
    assert server.served["/a"] == 1
    assert server.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(
    ("fields", "size", "ranges", "versioned"),
    [
        ({}, True, True, True),
        ({"ranges": False}, True, False, True),
        ({"chunked": True}, False, False, True),
        ({"etag": ""}, True, True, False),
        ({"etag": 'W/"weak"'}, True, True, False),
        ({"etag": "", "last_modified": "Mon, 02 Nov 2026 10:00:00 GMT"}, True, True, True),
        ({"etag": "", "last_modified": "Mon, 02 Nov 2026 10:00:00 GMT", "chunked": True}, False, False, False),
    ],
)
async def test_what_servers_tell(
    server: FileServer, network: Network, fields: dict[str, Any], size: bool, ranges: bool, versioned: bool
) -> None:
    remote = await open_remote(network, server.add("a", CONTENT, **fields))
    assert (remote.size, remote.ranges) == (len(CONTENT) if size else None, ranges)
    assert bool(remote.version) == versioned
    assert await read(remote) == CONTENT


async def test_a_big_body_is_not_read_at_the_look(server: FileServer, network: Network) -> None:
    await open_remote(network, server.add("a", size=1 << 30, ranges=False))
    assert server.served["/a"] < 1 << 26


async def test_an_empty_file(server: FileServer, network: Network) -> None:
    remote = await open_remote(network, server.add("a", b""))
    assert remote.size == 0
    assert await read(remote) == b""


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 100), (100, 101), (100, None), (10_000, 10_240)])
async def test_ranges(server: FileServer, network: Network, start: int, end: int | None) -> None:
    remote = await open_remote(network, server.add("a", CONTENT))
    assert await read(remote, start, end) == CONTENT[start:end]
    if (start, end) != (0, None):
        assert server.requests[-1].headers["if-range"] == remote.version


async def test_a_reader_that_leaves_closes_the_connection(server: FileServer, network: Network) -> None:
    remote = await open_remote(network, server.add("a", size=1 << 30, rate=10 << 20))
    async with aclosing(remote.read(0, None)) as blocks:
        async for _ in blocks:
            break
    deadline = time.monotonic() + 10
    while server.open["/a"]:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert server.served["/a"] < 1 << 28


async def test_the_connection_is_used_again(server: FileServer, network: Network) -> None:
    url = server.add("a", CONTENT)
    for start in range(10):
        remote = await open_remote(network, url)
        await read(remote, start, start + 10)
    assert server.connections == 1


async def test_what_the_caller_knows(server: FileServer, network: Network) -> None:
    url = server.add("a", CONTENT)
    remote = await open_remote(network, url, headers={"Authorization": "Bearer token"}, sha256="abc", size=len(CONTENT))
    assert remote.sha256 == "abc"
    await read(remote)
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer token"] * 2
    with pytest.raises(DownloadFailed, match="10240 bytes, and 5 were expected"):
        await open_remote(network, url, size=5)


async def test_headers_of_redirects(server: FileServer, network: Network) -> None:
    server.add("b", CONTENT)
    remote = await open_remote(network, server.add("a", redirect="/b", headers={"X-Linked-Etag": '"sum"'}))
    assert [headers["X-Linked-Etag"] for headers in remote.redirects] == ['"sum"']
    assert await read(remote, 5, 10) == CONTENT[5:10]


@pytest.mark.parametrize(
    "fields",
    [
        {"content": CONTENT, "etag": '"v2"'},
        {"content": CONTENT + b"more", "etag": '"v1"'},
        {"content": b"", "etag": '"v2"'},
        {"content": CONTENT, "etag": '"v2"', "ranges": False},
        {"content": CONTENT, "etag": ""},
    ],
)
@pytest.mark.parametrize("start", [0, 100])
async def test_a_file_that_changes(server: FileServer, network: Network, fields: dict[str, Any], start: int) -> None:
    remote = await open_remote(network, server.add("a", CONTENT, etag='"v1"'))
    server.add("a", **fields)
    with pytest.raises(Changed, match="has changed on the server"):
        await read(remote, start)


async def test_an_answer_that_starts_elsewhere(server: FileServer, network: Network) -> None:
    remote = await open_remote(network, server.add("a", CONTENT))
    server.files["/a"].ranges = False
    with pytest.raises(Interrupted, match="starts at byte 0, not at 100"):
        await read(remote, 100)


@pytest.mark.parametrize("status", [404, 416])
async def test_no_file(server: FileServer, network: Network, status: int) -> None:
    with pytest.raises(DownloadFailed, match=str(status)):
        await open_remote(network, server.add("a", status=status))


async def test_schemes(network: Network) -> None:
    with pytest.raises(ConfigInvalid, match="expected http:// or https://"):
        await HTTP(network).locate("gopher://host/a")
