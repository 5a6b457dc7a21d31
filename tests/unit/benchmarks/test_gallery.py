"""The benchmark of downloads: its table, its server, and one small round of it."""

import hashlib
import http.client
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from benchmarks.gallery import Round, measure, serving, table
from tests.unit.benchmarks.conftest import CIRCUMSTANCES

CONDITIONS = {**CIRCUMSTANCES, "bytes": 10**9}


def test_table() -> None:
    rounds = [Round(1.0, 1.0, {1: 4.0, 4: 2.0}), Round(1.0, 3.0, {1: 4.0, 4: 2.0}), Round(1.0, 3.0, {1: 4.0, 4: 1.0})]
    text = table(rounds, CONDITIONS)
    assert "| `curl -o f && sha256sum f` | 4.00 (2.00–4.00) | 250 |  |" in text
    assert "| Manta, 1 connection | 4.00 (4.00–4.00) | 250 | 1.00 (0.50–1.00) |" in text
    assert "| Manta, 4 connections | 2.00 (1.00–2.00) | 500 | 2.00 (1.00–4.00) |" in text
    assert text.endswith("met.")


def test_an_aim_that_is_missed() -> None:
    assert "**missed**" in table([Round(1.0, 1.0, {1: 3.0, 4: 1.0})], CONDITIONS)


def test_a_round(tmp_path: Path) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 4096)
    with serving(source) as url:
        found = measure(url, tmp_path)
    assert min(found.curl, found.sha256sum, *found.manta.values()) > 0
    assert list(tmp_path.iterdir()) == [source]


def test_the_server_serves_ranges(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(hashlib.sha256(b"seed").digest() * 100)
    with serving(source) as url:
        connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
        connection.request("GET", "/file", headers={"Range": "bytes=10-19"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Content-Range"]) == (206, "bytes 10-19/3200")
        assert answer.read() == source.read_bytes()[10:20]
        connection.request("GET", "/file")
        assert connection.getresponse().read() == source.read_bytes()
        connection.close()
