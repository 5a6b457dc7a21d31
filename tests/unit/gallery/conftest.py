"""A real package index on loopback, with faults on demand, and wheels made on the spot; a real S3 server."""

import hashlib
import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import boto3
import pytest
from aiohttp import encode_basic_auth

from tests.loopback import Handler, Loopback


class PackageIndex(Loopback):
    """Speaks the simple repository API (PEP 503, 629) with byte ranges. Wheels go in with `add`."""

    def __init__(self) -> None:
        self.wheels: dict[str, bytes] = {}
        self.hashes: dict[str, str] = {}
        """What the index claims; the wheel's own unless a test says otherwise."""
        self.cut_after: int | None = None
        """The next download's connection breaks after so many bytes."""
        self.ranges: list[str] = []
        """`Range` headers of the downloads so far; empty where one had none."""
        self.served = 0
        """Bytes of wheels so far."""
        self.metadata = False
        """Offer each wheel's metadata as a file beside it (PEP 658)."""
        self.has_ranges = True
        self.credentials = ""
        """`name:password` that every request needs; empty: none."""
        super().__init__(_Handler)
        self.simple = f"{self.url}/simple/"
        """What pip calls the index's URL."""

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


class _Handler(Handler):
    @property
    def index(self) -> PackageIndex:
        owner: PackageIndex = self.server.owner
        return owner

    def get(self) -> None:
        _, kind, name, *_ = self.path.split("/")
        wheels = self.index.wheels
        if not self._is_known():
            self.send(401, b"", **{"WWW-Authenticate": 'Basic realm="index"'})
        elif kind == "simple":
            self._page(name)
        elif name in wheels:
            self._wheel(wheels[name])
        elif (wheel := name.removesuffix(".metadata")) in wheels:
            self.send(200, _metadata(wheels[wheel]))
        else:
            self.send(404, b"")

    def _is_known(self) -> bool:
        name, _, password = self.index.credentials.partition(":")
        return not name or self.headers.get("Authorization") == encode_basic_auth(name, password)

    def _page(self, package: str) -> None:
        found = [wheel for wheel in self.index.wheels if wheel.startswith(package.replace("-", "_") + "-")]
        more = ' data-core-metadata="true"' if self.index.metadata else ""
        links = [f'<a href="/files/{w}#sha256={self.index.hashes[w]}"{more}>{w}</a>' for w in found]
        page = f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()
        self.send(200 if found else 404, page, **{"Content-Type": "text/html"})

    def _wheel(self, content: bytes) -> None:
        wanted = self.headers.get("Range", "")
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted) if self.index.has_ranges else None
        start, end = (int(match[1]), int(match[2] or len(content) - 1) + 1) if match else (0, len(content))
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
        if self.index.has_ranges:
            headers["Accept-Ranges"] = "bytes"
        if match:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
        claimed = end - start
        if self.command == "GET":
            self.index.ranges.append(wanted)
            if self.index.cut_after is not None and claimed > self.index.cut_after:
                end, self.index.cut_after, self.close_connection = start + self.index.cut_after, None, True
            self.index.served += end - start
        self.send(206 if match else 200, content[start:end], claimed=claimed, **headers)


def _metadata(wheel: bytes) -> bytes:
    with ZipFile(io.BytesIO(wheel)) as archive:
        return next(archive.read(name) for name in archive.namelist() if name.endswith("/METADATA"))


@pytest.fixture
def package_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[PackageIndex]:
    """An index that is the only one pip knows of."""
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CONSTRAINT", "PIP_CERT"):
        monkeypatch.delenv(name, raising=False)
    with PackageIndex() as index:
        monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
        monkeypatch.setenv("PIP_INDEX_URL", index.simple)
        monkeypatch.setenv("PIP_RETRIES", "1")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        yield index


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Of an S3 server, in a process of its own."""
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as server:
        assert server.stderr is not None
        try:
            lines = iter(server.stderr)
            address = next(match[0] for line in lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line)))
            drain = threading.Thread(target=lambda: [None for _ in lines])
            drain.start()
            yield address
        finally:
            server.terminate()
            server.wait(timeout=10)
        drain.join()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket, and the environment that leads to it."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    resource = boto3.Session(region_name="us-east-1").resource("s3")
    bucket = resource.Bucket("weights")
    bucket.create()
    yield bucket
    bucket.object_versions.delete()
    bucket.delete()
    resource.meta.client.close()
