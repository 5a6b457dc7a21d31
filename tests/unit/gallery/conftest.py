"""A real package index on loopback, with faults on demand, and wheels made on the spot."""

import hashlib
import io
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zipfile import ZipFile

import pytest


class Server(ThreadingHTTPServer):
    """Clients that hang up are part of the tests."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class PackageIndex:
    """Speaks the simple repository API (PEP 503, 629) with byte ranges. Wheels go in with `add`."""

    def __init__(self) -> None:
        self.wheels: dict[str, bytes] = {}
        self.hashes: dict[str, str] = {}
        """What the index claims; the wheel's own unless a test says otherwise."""
        self.cut_after: int | None = None
        """The next download's connection breaks after so many bytes."""
        self.ranges: list[str] = []
        """`Range` headers of the downloads so far; empty where one had none."""
        self._server = Server(("127.0.0.1", 0), self._handler())
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/simple/"

    def add(self, package: str, version: str, members: dict[str, bytes]) -> bytes:
        """Build a wheel that holds `members` and offer it."""
        name = package.replace("-", "_")
        info = f"{name}-{version}.dist-info"
        buffer = io.BytesIO()
        with ZipFile(buffer, "w") as archive:
            for path, content in members.items():
                archive.writestr(path, content)
            archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        wheel = f"{name}-{version}-py3-none-any.whl"
        self.wheels[wheel] = buffer.getvalue()
        self.hashes[wheel] = hashlib.sha256(buffer.getvalue()).hexdigest()
        return buffer.getvalue()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        index = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                _, kind, name, *_ = self.path.split("/")
                if kind == "simple":
                    self._page(name)
                elif name in index.wheels:
                    self._wheel(index.wheels[name])
                else:
                    self.send_error(404)

            def _page(self, package: str) -> None:
                found = [wheel for wheel in index.wheels if wheel.startswith(package.replace("-", "_") + "-")]
                if not found:
                    self.send_error(404)
                    return
                links = [f'<a href="/files/{w}#sha256={index.hashes[w]}">{w}</a>' for w in found]
                page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def _wheel(self, content: bytes) -> None:
                wanted = self.headers.get("Range", "")
                index.ranges.append(wanted)
                start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", wanted)) else 0
                self.send_response(206 if start else 200)
                self.send_header("Content-Type", "application/octet-stream")
                self.send_header("Content-Length", str(len(content) - start))
                self.send_header("Accept-Ranges", "bytes")
                self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                end, index.cut_after = index.cut_after, None
                self.wfile.write(content[start:end])
                self.close_connection = self.close_connection or end is not None

            def log_message(self, *args: object) -> None:
                """Quiet."""

        return Handler


@pytest.fixture
def package_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PackageIndex]:
    """An index that is the only one pip knows of."""
    index = PackageIndex()
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", index.url)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield index
    index.close()
