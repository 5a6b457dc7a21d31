"""Space: what is asked for before the first byte, and what downloads side by side leave each other."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from deployments.errors import InsufficientStorage
from gallery.space import Space

Usage = namedtuple("Usage", ["total", "used", "free"])
GB = 10**9


class Disk:
    """The free bytes that the system is made to tell."""

    free = 10 * GB


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(100 * GB, 0, disk.free))
    return disk


def test_what_fits(disk: Disk, tmp_path: Path) -> None:
    space = Space(tmp_path, min_free=GB)
    space.require(9 * GB)
    with pytest.raises(InsufficientStorage) as caught:
        space.require(9 * GB + 10**8)
    assert caught.value.message == (
        f"needs 9.1 GB more under {tmp_path}; 10.0 GB are free, of which 1.0 GB stay free (setting min_free_disk_mb)"
    )


def test_what_is_there_already_needs_no_room(disk: Disk, tmp_path: Path) -> None:
    disk.free = 2 * GB
    space = Space(tmp_path, min_free=GB)
    space.require(5 * GB, present=4 * GB)
    with pytest.raises(InsufficientStorage, match=r"needs 1\.1 GB more"):
        space.require(5 * GB, present=39 * 10**8)


def test_a_full_disk_holds_what_needs_nothing(disk: Disk, tmp_path: Path) -> None:
    disk.free = 0
    Space(tmp_path, min_free=GB).require(5, present=5)


def test_the_limit(disk: Disk, tmp_path: Path) -> None:
    space = Space(tmp_path, min_free=0, limit=10**6)
    space.require(10**6)
    with pytest.raises(InsufficientStorage, match=r"needs 1\.5 MB; .* 1\.0 MB \(setting download_limit_mb\)"):
        space.require(1_500_000, present=10**6)


def test_downloads_side_by_side(disk: Disk, tmp_path: Path) -> None:
    space = Space(tmp_path, min_free=GB)
    with space.reserve(6 * GB) as reservation:
        space.require(3 * GB)
        with pytest.raises(InsufficientStorage, match=r"6\.0 GB are for downloads that run"):
            space.require(4 * GB)
        reservation.wrote(2 * GB)
        disk.free -= 2 * GB
        space.require(3 * GB)
        with pytest.raises(InsufficientStorage, match=r"4\.0 GB are for downloads that run"), space.reserve(4 * GB):
            pytest.fail("no room")
    space.require(7 * GB)


def test_a_file_of_unknown_size_may_grow(disk: Disk, tmp_path: Path) -> None:
    space = Space(tmp_path, min_free=GB, limit=5 * GB)
    with space.reserve(None) as reservation:
        reservation.wrote(4 * GB)
        disk.free = GB
        with pytest.raises(InsufficientStorage, match="stay free"):
            reservation.wrote(1)
        disk.free = 9 * GB
        with pytest.raises(InsufficientStorage, match="an installation may take"):
            reservation.wrote(GB)


def test_a_file_that_is_fetched_again_from_the_start(disk: Disk, tmp_path: Path) -> None:
    with Space(tmp_path, min_free=GB).reserve(5 * GB) as reservation:
        reservation.wrote(3 * GB)
        reservation.wrote(-3 * GB)
        assert reservation.left == 5 * GB


def test_the_disk_that_is_there(tmp_path: Path) -> None:
    Space(tmp_path, min_free=0).require(1)
    with pytest.raises(InsufficientStorage):
        Space(tmp_path, min_free=0).require(10**18)
