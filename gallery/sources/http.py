"""`https://` and `http://`: files of web servers, and what the other sources read from theirs."""

import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from multidict import CIMultiDict, CIMultiDictProxy

from deployments.errors import DownloadFailed
from gallery.errors import Changed, Interrupted
from gallery.network import Answer, Headers, Network, shown
from gallery.sources.base import Whole

_CONTENT_RANGE = re.compile(r"bytes (?:(?P<first>\d+)-(?P<last>\d+)|\*)/(?P<size>\d+|\*)")


class HTTP:
    """Whole files, named by their URLs."""

    def __init__(self, network: Network) -> None:
        self._network = network

    async def locate(self, uri: str) -> Whole:
        return Whole(await open_remote(self._network, uri))


async def open_remote(
    network: Network, url: str, *, headers: Headers = (), sha256: str = "", size: int | None = None
) -> "HTTPRemote":
    """Look the file at `url` up: one request for its first byte, of which only the head of the answer is read.

    `headers` go with each request, `sha256` and `size` are what the caller knows. Raises as `Network.get` does, and
    DownloadFailed if the server's size is another.
    """
    remote = HTTPRemote(network, url, CIMultiDict(headers), size=size, sha256=sha256)
    asked = CIMultiDict(remote.headers)
    asked["Range"] = "bytes=0-0"
    async with network.get(url, asked, accept=(200, 206, 416)) as answer:
        found = _size(answer)
        if answer.status == 416 and found != 0:
            raise DownloadFailed(f"GET {shown(url)}: 416 Requested Range Not Satisfiable")
        if None not in (size, found) and size != found:
            raise DownloadFailed(f"GET {shown(url)}: {found} bytes, and {size} were expected")
        if answer.status == 206:
            await answer.read(1)  # so that the connection can be used again
        remote.size = size if found is None else found
        remote.version = _version(answer)
        remote.ranges = answer.status == 206
        remote.redirects = answer.redirects
    return remote


@dataclass(slots=True)
class HTTPRemote:
    """A file on a web server."""

    network: Network
    url: str
    headers: CIMultiDict[str]
    size: int | None = None
    version: str = ""
    """A strong ETag, else date and size, else empty."""
    sha256: str = ""
    ranges: bool = False
    redirects: tuple[CIMultiDictProxy[str], ...] = field(default=())
    """Headers of the answers that led from `url` to the file, when it was looked up."""

    async def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        asked = CIMultiDict(self.headers)
        if self.ranges and (start or end is not None):
            asked["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if self.version.startswith('"'):
                asked["If-Range"] = self.version
        async with self.network.get(self.url, asked, accept=(200, 206, 416)) as answer:
            self._check(answer, start)
            async for block in answer.blocks():
                yield block

    def _check(self, answer: Answer, start: int) -> None:
        """Raise Changed if this is not an answer of the file that was looked up."""
        size, version = _size(answer), _version(answer)
        same = version == self.version or not self.version
        if not same or answer.status == 416 or (None not in (size, self.size) and size != self.size):
            raise Changed(f"GET {shown(self.url)}: the file has changed on the server")
        first = _first(answer)
        if first != start:
            raise Interrupted(f"GET {shown(self.url)}: the answer starts at byte {first}, not at {start}")


def _first(answer: Answer) -> int:
    """Where in the file the body starts."""
    span = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return int(span["first"] or 0) if answer.status == 206 and span else 0


def _size(answer: Answer) -> int | None:
    """Of the whole file, in bytes."""
    if answer.status == 200:
        length = answer.headers.get("Content-Length", "")
        return int(length) if length.isdigit() else None
    span = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
    return int(span["size"]) if span and span["size"] != "*" else None


def _version(answer: Answer) -> str:
    etag = answer.headers.get("ETag", "")
    if etag.startswith('"'):
        return etag
    date, size = answer.headers.get("Last-Modified", ""), _size(answer)
    return f"{date}, {size} bytes" if date and size is not None else ""
