"""Places for blobs, held to the same: a folder, and S3 as moto's server has it."""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from deployments.errors import ConfigInvalid, InsufficientStorage, StorageFailed
from gallery import blobs as blobs_module
from gallery import folder_blobs, s3_blobs
from gallery.blobs import (
    Blob,
    Blobs,
    BlobSettings,
    expire_for_ever,
    gathered,
    generated_images,
    uploads,
)
from gallery.folder_blobs import ABANDONED_S, BLOCK, FolderBlobs
from gallery.s3_blobs import S3Blobs
from gallery.settings import DownloadSettings
from tests.unit.waiting import until

IMAGE = os.urandom(3 * BLOCK + 5)


@dataclass
class Place:
    """A place for blobs, and the ways a test has around it."""

    blobs: Blobs
    names: Callable[[], set[str]]
    half_written: Callable[[], int]


@pytest.fixture(params=["folder", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    if request.param == "folder":
        location, names = str(tmp_path), lambda: names_in(tmp_path / "generated-images")
        half_written = lambda: len(list(tmp_path.rglob(".*.partial")))  # noqa: E731
    else:
        bucket = request.getfixturevalue("bucket")
        location = "s3://weights/manta"
        half_written = lambda: len(list(bucket.multipart_uploads.all()))  # noqa: E731
        names = lambda: {item.key.removeprefix("manta/generated-images/") for item in bucket.objects.all()}  # noqa: E731
    blobs = generated_images(BlobSettings(location, 3600))
    yield Place(blobs, names, half_written)
    await blobs.close()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def content(blob: Blob | None) -> bytes:
    assert blob is not None
    async with aclosing(blob.read()) as blocks:
        return b"".join([block async for block in blocks])


async def test_what_was_put_is_found(place: Place) -> None:
    kinds = {"a.png": "image/png", "B-_2.webp": "image/webp", "3.jpg": "image/jpeg", "x": "application/octet-stream"}
    for name, media_type in kinds.items():
        await place.blobs.put(name, IMAGE)
        blob = await place.blobs.find(name)
        assert blob is not None
        assert (blob.size, blob.media_type) == (len(IMAGE), media_type)
        assert 0 <= blob.age < 60
        assert await content(blob) == IMAGE
    assert place.names() == set(kinds)


async def test_the_last_one_put_is_found(place: Place) -> None:
    await place.blobs.put("a.png", b"old")
    await place.blobs.put("a.png", b"")
    assert await content(await place.blobs.find("a.png")) == b""


async def test_a_reader_may_leave(place: Place) -> None:
    await place.blobs.put("a.png", IMAGE)
    for _ in range(40):
        blob = await place.blobs.find("a.png")
        assert blob is not None
        async with aclosing(blob.read()) as blocks:
            assert await anext(blocks)


async def test_what_is_not_there(place: Place) -> None:
    assert await place.blobs.find("a.png") is None
    await place.blobs.delete("a.png")
    assert await place.blobs.expire() == 0
    await place.blobs.put("a.png", b"x")
    await place.blobs.delete("a.png")
    assert await place.blobs.find("a.png") is None
    assert place.names() == set()


async def pieces(content: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (5 << 20) - 1, 5 << 20, (10 << 20) + 7])
async def test_what_was_put_as_it_came_is_found(place: Place, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(s3_blobs, "PART", 5 << 20)
    whole = (IMAGE * (size // len(IMAGE) + 1))[:size]
    assert await place.blobs.put_stream("a", pieces(whole)) == size
    assert await content(await place.blobs.find("a")) == whole
    assert place.names() == {"a"}
    assert await place.blobs.put_stream("a", pieces(b"new")) == 3
    assert await content(await place.blobs.find("a")) == b"new"


async def test_parts_of_what_is_there(place: Place) -> None:
    await place.blobs.put("a.png", IMAGE)
    blob = await place.blobs.find("a.png")
    assert blob is not None
    for start, end in ((0, 1), (5, BLOCK + 5), (BLOCK, None), (len(IMAGE) - 1, len(IMAGE))):
        async with aclosing(blob.read(start, end)) as blocks:
            assert b"".join([block async for block in blocks]) == IMAGE[start:end]


async def test_what_is_gone_when_it_is_read_is_said(place: Place) -> None:
    await place.blobs.put("a.png", IMAGE)
    blob = await place.blobs.find("a.png")
    await place.blobs.delete("a.png")
    with pytest.raises(StorageFailed):
        await content(blob)


@pytest.mark.parametrize("error", [RuntimeError, asyncio.CancelledError])
async def test_who_leaves_in_the_middle_leaves_nothing_to_find(
    place: Place, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    monkeypatch.setattr(s3_blobs, "PART", 5 << 20)

    async def cut() -> AsyncIterator[bytes]:
        async for piece in pieces(IMAGE * 9, 6 << 20):
            yield piece
        raise error

    with pytest.raises(error):
        await place.blobs.put_stream("a", cut())
    assert await place.blobs.find("a") is None
    await place.blobs.discard("a")
    await place.blobs.discard("a")
    assert place.names() == set()
    assert place.half_written() == 0


async def test_gathered_blocks_have_one_size() -> None:
    for content in (b"", b"1", b"1234", b"12345", b"123456789"):
        for size in (1, 3, 4, 100):
            blocks = [block async for block in gathered(pieces(content, size), 4)]
            assert b"".join(blocks) == content
            assert {len(block) for block in blocks[:-1]} <= {4}
            assert all(0 < len(block) <= 4 for block in blocks[-1:])


async def test_uploads_have_a_place_of_their_own(tmp_path: Path, bucket: Any) -> None:
    for settings, name in ((BlobSettings(str(tmp_path), 9), "uploads/a"), (BlobSettings("", 9, str(tmp_path)), "a")):
        assert await uploads(settings).put_stream("a", pieces(b"x")) == 1
        assert (tmp_path / name).read_bytes() == b"x"
    for location, key in (("s3://weights", "a"), ("s3://weights/", "a"), ("s3://weights/deep/er/", "deep/er/a")):
        blobs = uploads(BlobSettings(str(tmp_path), 9, location))
        assert blobs.ttl == 0
        await blobs.put_stream("a", pieces(b"x"))
        assert bucket.Object(key).content_length == 1
        await blobs.close()


async def test_names_lead_nowhere_else(place: Place, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"secret")
    for name in ("", ".", "..", "../a.png", "a/b.png", "/etc/passwd", ".a.png", "a\\b", "a\n", "a" * 201):
        assert await place.blobs.find(name) is None
        with pytest.raises(ValueError, match="can't be a blob's name"):
            await place.blobs.put(name, b"x")
        with pytest.raises(ValueError, match="can't be a blob's name"):
            await place.blobs.put_stream(name, pieces(b"x"))
        with pytest.raises(ValueError, match="can't be a blob's name"):
            await place.blobs.discard(name)
        with pytest.raises(ValueError, match="can't be a blob's name"):
            await place.blobs.delete(name)
    assert (tmp_path / "a.png").read_bytes() == b"secret"


async def test_what_is_too_old_is_not_found_and_goes(place: Place) -> None:
    await place.blobs.put("a.png", IMAGE)
    for ttl in (3600, 0):
        place.blobs.ttl = ttl
        assert await place.blobs.expire() == 0
        assert await content(await place.blobs.find("a.png")) == IMAGE
    place.blobs.ttl = 1e-9
    assert await place.blobs.find("a.png") is None
    assert place.names() == {"a.png"}
    assert await place.blobs.expire() == 1
    assert place.names() == set()


# ---- the folder ------------------------------------------------------------------------------------------------------


async def test_files_of_others_stay_and_what_a_dead_process_left_goes(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path, ttl=10)
    long_ago = time.time() - ABANDONED_S - 1
    for name in ("old.png", ".old.png.partial", ".hidden", "a b"):
        (tmp_path / name).write_bytes(b"x")
        os.utime(tmp_path / name, (long_ago, long_ago))
    (tmp_path / ".new.png.partial").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    os.utime(tmp_path / "folder", (long_ago, long_ago))
    assert await blobs.expire() == 1
    assert names_in(tmp_path) == {".hidden", "a b", ".new.png.partial", "folder"}


async def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(InsufficientStorage):
        await FolderBlobs(tmp_path, 0).put("a.png", b"x")
    assert names_in(tmp_path) == set()


async def test_a_disk_that_becomes_full_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = folder_blobs.FileIO.write

    class Full(folder_blobs.FileIO):
        def write(self, block: Any) -> int:
            if self.tell() >= 2 << 20:
                raise OSError(28, "No space left on device")
            return write(self, block[: 1 << 19])  # a disk may take a part

    monkeypatch.setattr(folder_blobs, "FileIO", Full)
    blobs = FolderBlobs(tmp_path, 0)
    with pytest.raises(InsufficientStorage):
        await blobs.put_stream("a", pieces(IMAGE * 9))
    assert names_in(tmp_path) == {".a.partial"}
    await blobs.discard("a")
    await blobs.put_stream("a", pieces(IMAGE))
    assert await content(await blobs.find("a")) == IMAGE


async def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageFailed):
        await FolderBlobs(tmp_path / "file", 0).put("a.png", b"x")


# ---- S3 --------------------------------------------------------------------------------------------------------------


async def test_objects_of_others_stay(bucket: Any) -> None:
    blobs = S3Blobs("s3://weights/here", ttl=3600)
    bucket.put_object(Key="here/deeper/a.png", Body=b"x")
    bucket.put_object(Key="here-too.png", Body=b"x")
    await blobs.put("a.png", b"x")
    assert bucket.Object("here/a.png").content_type == "image/png"
    blobs.ttl = 1e-9
    assert await blobs.expire() == 1
    assert {item.key for item in bucket.objects.all()} == {"here/deeper/a.png", "here-too.png"}
    await blobs.close()


async def test_an_endpoint_that_does_not_answer_is_tried_again(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setattr(s3_blobs, "PAUSE_S", 0.001)
    blobs = S3Blobs("s3://weights/here", 0, DownloadSettings(stall_timeout=2))
    tries = []
    call = blobs._s3.call
    monkeypatch.setattr(blobs._s3, "call", lambda *args: (tries.append(1), call(*args))[1])
    with pytest.raises(StorageFailed):
        await blobs.put("a.png", b"x")
    assert len(tries) == s3_blobs.TRIES
    await blobs.close()


async def test_a_bucket_that_is_not_there_is_said(bucket: Any) -> None:
    blobs = S3Blobs("s3://no-such-bucket/here", 0)
    with pytest.raises(StorageFailed):
        await blobs.put("a.png", b"x")
    await blobs.close()


@pytest.mark.parametrize("location", ["s3://", "s3://b", "s3://../x", "s3://bucket/a?b"])
def test_a_location_that_can_be_none(location: str) -> None:
    with pytest.raises(ConfigInvalid, match="expected s3://bucket/prefix"):
        S3Blobs(location, 0)


# ---- removal ---------------------------------------------------------------------------------------------------------


async def test_removal_goes_on_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs_module, "LONGEST_PERIOD_S", 0.001)
    blobs = FolderBlobs(tmp_path, ttl=1)
    failures = [StorageFailed("not now"), StorageFailed("not now")]
    expire = blobs.expire

    async def fail_twice() -> int:
        if failures:
            raise failures.pop()
        return await expire()

    monkeypatch.setattr(blobs, "expire", fail_twice)
    (tmp_path / "old.png").write_bytes(b"x")
    os.utime(tmp_path / "old.png", (1, 1))
    removing = asyncio.create_task(expire_for_ever(blobs))
    await until(lambda: not any(tmp_path.iterdir()))
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)


async def test_nothing_is_removed_where_it_is_kept_for_ever(tmp_path: Path) -> None:
    async with asyncio.timeout(5):
        await expire_for_ever(FolderBlobs(tmp_path, ttl=0))
