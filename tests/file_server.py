"""An HTTP server on loopback that serves files, made-up ones of any size too, and fails in the ways servers fail.

    with FileServer() as server:
        url = server.add("model.gguf", size=300 << 20, seed=1, cut_after=1 << 20)
        ...
        assert server.served["/model.gguf"] < 301 << 20
        assert found == server.sha256("/model.gguf")

It runs in threads of its own, so that clients may run in event loops, threads and other processes at once.
"""

import hashlib
import random
import re
import select
import socket
import ssl
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_BLOCK = 1 << 20
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(slots=True)
class ServedFile:
    """What the server has under one path, and how it fails there. May be changed while it is served."""

    content: bytes | None = None
    size: int = 0
    """Of made-up content, where `content` is None: every MiB of it differs, none of it is kept."""
    seed: int = 0
    etag: str | None = None
    """Quotes included; empty: none is sent; None: one that follows from the content."""
    last_modified: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Sent in addition, with errors and redirects too."""
    status: int = 200
    """Another one is the whole answer: 404, 403, 500…"""
    redirect: str = ""
    """Where a request is sent on to, by 302; or by `status`, where that is another redirect."""
    ranges: bool = True
    """Otherwise the whole file is sent, whatever was asked for."""
    changing_etag: bool = False
    """Each answer has a new one."""
    chunked: bool = False
    """The size isn't said; no ranges then."""
    unavailable: int = 0
    """So many requests more are answered 503."""
    retry_after: float | None = None
    """Said with each 503, in seconds."""
    max_connections: int = 0
    """More at once than these are answered 503; 0: no limit."""
    rate: float = 0.0
    """Bytes a second for each connection; 0: as fast as it goes."""
    cut_after: int | None = None
    """Bytes of a body after which the connection is closed."""
    cuts: int | None = None
    """So many answers more are cut; None: all."""
    stall_after: int | None = None
    """Bytes of a body after which nothing more is sent, the connection being left open."""
    stalls: int | None = None
    """So many answers more stall; None: all."""

    def length(self) -> int:
        """Bytes in all."""
        return self.size if self.content is None else len(self.content)

    def blocks(self, start: int, end: int, size: int = 1 << 18) -> Iterator[memoryview]:
        """The bytes from `start` to `end`, in pieces of at most `size`."""
        while start < end:
            if self.content is None:
                index, offset = divmod(start, _BLOCK)
                block, at = _made_up(self.seed, index), offset
            else:
                block, at = self.content, start
            piece = memoryview(block)[at : min(at + size, at + end - start)]
            yield piece
            start += len(piece)

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.blocks(0, self.length(), _BLOCK):
            digest.update(piece)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the server got."""

    method: str
    path: str
    """With the query string, as it came."""
    headers: Mapping[str, str]
    """By lower-case name."""


_NOTHING = ServedFile(status=404)


class FileServer:
    """Serves what was added to it, from `__enter__` to `__exit__`; all its connections are closed at the end."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, ServedFile] = {}
        """By path, with its slash at the front."""
        self.served: Counter[str] = Counter()
        """Bytes of bodies handed to the socket, by path: up to a few MB of them a client that left never read."""
        self.requests: list[Request] = []
        self.open: Counter[str] = Counter()
        """Answers that are being sent now, by path."""
        self.connections = 0
        """That clients have made so far."""
        self._scheme = "https" if tls else "http"
        self._server = _Server(self, tls)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.stop()
        self._thread.join()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def add(self, path: str, content: bytes | str | None = None, **fields: Any) -> str:
        """Put a file there, of the fields of ServedFile, in place of what was there; returns its URL."""
        if isinstance(content, str):
            content = content.encode()
        path = "/" + path.lstrip("/")
        self.files[path] = ServedFile(content=content, **fields)
        return self.url + path

    def sha256(self, path: str) -> str:
        return self.files["/" + path.lstrip("/")].sha256()

    def requests_of(self, path: str) -> list[Request]:
        """Those for this path, whatever their query string."""
        path = "/" + path.lstrip("/")
        return [request for request in self.requests if request.path.partition("?")[0] == path]


@lru_cache(maxsize=8)
def _pattern(seed: int) -> bytes:
    return random.Random(seed).randbytes(_BLOCK)


@lru_cache(maxsize=16)
def _made_up(seed: int, index: int) -> bytes:
    """The MiB number `index` of the content with this seed."""
    return index.to_bytes(8, "big") + _pattern(seed)[8:]


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # they are joined: nothing of a server outlives it
    request_queue_size = 128

    def __init__(self, owner: FileServer, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self._tls = tls
        self._connections: set[socket.socket] = set()

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        with self.lock:
            self.owner.connections += 1
            self._connections.add(request)
        try:
            if self._tls:
                request = self._tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            request.close()  # the handshake failed, or the client left
        finally:
            with self.lock:
                self._connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that leave are no news."""

    def stop(self) -> None:
        self.stopping.set()
        self.shutdown()
        with self.lock:
            connections = list(self._connections)
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        owner, path = self.server.owner, self.path.partition("?")[0]
        with self.server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            owner.requests.append(Request(self.command, self.path, headers))
            file = owner.files.get(path, _NOTHING)
            busy = bool(file.max_connections) and owner.open[path] >= file.max_connections
            if not busy:
                owner.open[path] += 1
        try:
            if busy:
                self._refuse(file, 503, "busy")
            else:
                self._serve(path, file, with_body=with_body)
        finally:
            with self.server.lock:
                owner.open[path] -= not busy

    def _serve(self, path: str, file: ServedFile, *, with_body: bool) -> None:
        if self._take(file, "unavailable"):
            return self._refuse(file, 503, "unavailable")
        if file.redirect:
            return self._refuse(file, 302 if file.status == 200 else file.status, "elsewhere", Location=file.redirect)
        if file.status != 200:
            return self._refuse(file, file.status, f"status {file.status}")
        etag = self._etag(file)
        span = self._asked_for(file, etag)
        size = file.length()
        if span and span[0] >= size:
            return self._refuse(file, 416, "", **{"Content-Range": f"bytes */{size}"})
        start, end = span or (0, size)
        self.send_response(206 if span else 200)
        if span:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{size}")
        if file.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(end - start))
        if file.ranges and not file.chunked:
            self.send_header("Accept-Ranges", "bytes")
        self._send_headers(file, ETag=etag, **{"Last-Modified": file.last_modified})
        return self._send_body(path, file, start, end) if with_body else None

    def _etag(self, file: ServedFile) -> str:
        if file.changing_etag:
            return f'"{time.monotonic_ns()}"'
        if file.etag is None:
            return f'"{file.length()}-{file.seed if file.content is None else zlib.crc32(file.content)}"'
        return file.etag

    def _asked_for(self, file: ServedFile, etag: str) -> tuple[int, int] | None:
        """Start and end of the range that is to be sent; None: the whole file."""
        found = _RANGE.fullmatch(self.headers.get("Range", ""))
        if not found or not file.ranges or file.chunked:
            return None
        if self.headers.get("If-Range", etag) not in (etag, file.last_modified):
            return None
        start, last = int(found[1]), int(found[2]) if found[2] else file.length() - 1
        return start, min(last + 1, file.length())

    def _send_body(self, path: str, file: ServedFile, start: int, end: int) -> None:
        cut = start + file.cut_after if file.cut_after is not None and self._take(file, "cuts") else None
        stall = start + file.stall_after if file.stall_after is not None and self._take(file, "stalls") else None
        stop = min(end, *(place for place in (cut, stall, end) if place is not None))
        size = max(1, min(1 << 18, int(file.rate / 20))) if file.rate else 1 << 18
        for piece in file.blocks(start, stop, size):
            with self.server.lock:
                self.server.owner.served[path] += len(piece)
            self._send(piece, chunked=file.chunked)
            if file.rate and self.server.stopping.wait(len(piece) / file.rate):
                break
        if stall is not None and stall == stop:
            self._wait_for_the_end()
        elif file.chunked and stop == end:
            self.wfile.write(b"0\r\n\r\n")
        if stop < end or self.server.stopping.is_set():
            self.close_connection = True

    def _send(self, piece: memoryview, *, chunked: bool) -> None:
        if chunked:
            self.wfile.write(b"%x\r\n" % len(piece))
        self.wfile.write(piece)
        if chunked:
            self.wfile.write(b"\r\n")

    def _wait_for_the_end(self) -> None:
        """Say nothing more, until the client leaves or the server stops."""
        while not self.server.stopping.is_set():
            readable, _, _ = select.select([self.connection], [], [], 0.02)
            if readable and not self.connection.recv(1 << 16):
                break
        self.close_connection = True

    def _refuse(self, file: ServedFile, status: int, text: str, **headers: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 503 and file.retry_after is not None:
            self.send_header("Retry-After", f"{file.retry_after:g}")
        self._send_headers(file, **headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def _send_headers(self, file: ServedFile, **headers: str) -> None:
        for name, value in {**headers, **file.headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _take(self, file: ServedFile, counter: str) -> bool:
        """Whether this request is one of those that the counter (None: all) still holds."""
        with self.server.lock:
            left: int | None = getattr(file, counter)
            if left:
                setattr(file, counter, left - 1)
        return left is None or left > 0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 – the base class's name
        """Says nothing."""
