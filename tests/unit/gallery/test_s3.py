"""`s3://` against a real S3 server process: moto's."""

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator
from typing import Any

import psutil
import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Changed, Interrupted
from gallery.settings import DownloadSettings
from gallery.sources import s3
from gallery.sources.base import Remote
from gallery.sources.s3 import S3

WEIGHTS = os.urandom(3_000_000)


@pytest.fixture
async def source(bucket: Any) -> AsyncIterator[S3]:
    async with S3(DownloadSettings(stall_timeout=5)) as source:
        yield source


async def content(remote: Remote, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([block async for block in remote.read(start, end)])


def connections(endpoint: str) -> list[Any]:
    """Of this process to the server."""
    port = int(endpoint.rpartition(":")[2])
    all_of_them = psutil.Process().net_connections("tcp")
    return [c for c in all_of_them if c.raddr and c.raddr.port == port and c.status == psutil.CONN_ESTABLISHED]


async def test_reads_any_span_of_an_object(bucket, source) -> None:
    bucket.put_object(Key="a folder/model.gguf", Body=WEIGHTS)
    for uri in ("s3://weights/a folder/model.gguf", "s3://weights/a%20folder/model.gguf"):
        remote = (await source.locate(uri)).remote
        assert (remote.size, remote.sha256, remote.ranges) == (len(WEIGHTS), "", True)
        assert remote.version == f'"{hashlib.md5(WEIGHTS).hexdigest()}"'
        assert await content(remote) == WEIGHTS
        assert await content(remote, 2_000_000) == WEIGHTS[2_000_000:]
        assert await content(remote, 1, 7) == WEIGHTS[1:7]
        assert await content(remote, 3_000_000) == b""


async def test_an_empty_object(bucket, source) -> None:
    bucket.put_object(Key="empty", Body=b"")
    remote = (await source.locate("s3://weights/empty")).remote
    assert remote.size == 0
    assert await content(remote) == b""


async def test_the_sha256_is_known_where_the_server_has_one_of_the_whole_object(bucket, source) -> None:
    bucket.put_object(Key="summed", Body=WEIGHTS, ChecksumAlgorithm="SHA256")
    remote = (await source.locate("s3://weights/summed")).remote
    assert remote.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert await content(remote) == WEIGHTS


@pytest.mark.parametrize(
    ("said", "sha256"),
    [
        ({"ChecksumSHA256": "AAAA", "ChecksumType": "FULL_OBJECT"}, "000000"),
        ({"ChecksumSHA256": "AAAA"}, "000000"),
        ({"ChecksumSHA256": "AAAA", "ChecksumType": "COMPOSITE"}, ""),
        ({"ChecksumSHA256": "AAAA-2"}, ""),
        ({"ChecksumCRC32": "AAAA"}, ""),
    ],
)
def test_a_sum_of_the_parts_sums_is_none_of_the_object(said, sha256) -> None:
    assert s3._sha256(said) == sha256


async def test_an_object_that_was_replaced_is_not_mixed_with_the_old_one(bucket, source) -> None:
    bucket.put_object(Key="model", Body=WEIGHTS)
    remote = (await source.locate("s3://weights/model")).remote
    bucket.put_object(Key="model", Body=WEIGHTS[::-1])
    with pytest.raises(Changed, match="s3://weights/model"):
        await content(remote, 100)


async def test_a_version_of_an_object_stays(bucket, source) -> None:
    bucket.Versioning().enable()
    old = bucket.put_object(Key="model", Body=WEIGHTS).version_id
    bucket.put_object(Key="model", Body=b"new")
    remote = (await source.locate(f"s3://weights/model?versionId={old}")).remote
    assert await content(remote) == WEIGHTS
    assert (await source.locate("s3://weights/model")).remote.size == 3
    bucket.Versioning().suspend()


async def test_without_credentials_public_objects_can_be_read(bucket, monkeypatch) -> None:
    bucket.put_object(Key="public", Body=WEIGHTS, ACL="public-read")
    bucket.put_object(Key="private", Body=WEIGHTS)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with S3(DownloadSettings()) as source:
        assert await content((await source.locate("s3://weights/public")).remote) == WEIGHTS
        with pytest.raises(DownloadFailed, match=r"s3://weights/private: .*missing credentials \(AWS_ACCESS_KEY_ID"):
            await source.locate("s3://weights/private")


async def test_many_reads_at_once_leave_threads_to_others(bucket, source) -> None:
    bucket.put_object(Key="model", Body=WEIGHTS)
    remote = (await source.locate("s3://weights/model")).remote
    spans = [(place, place + 50_000) for place in range(0, 3_000_000, 50_000)]
    reads = asyncio.gather(*(content(remote, *span) for span in spans))
    assert await asyncio.wait_for(asyncio.to_thread(lambda: "free"), 5) == "free"
    assert b"".join(await reads) == WEIGHTS


async def test_a_reader_that_leaves_closes_its_connection(endpoint, bucket, source) -> None:
    bucket.put_object(Key="model", Body=WEIGHTS)
    remote = (await source.locate("s3://weights/model")).remote
    for _ in range(3 * s3.THREADS):  # more than there are threads and pooled connections
        blocks = remote.read(0, None)
        assert await anext(blocks)
        await blocks.aclose()
    deadline = time.monotonic() + 10
    while (left := len(connections(endpoint))) > 2:  # the bucket's own, and one that waits for the next read
        assert time.monotonic() < deadline, f"{left} connections are left"
        await asyncio.sleep(0.01)
    assert await content(remote, 0, 10) == WEIGHTS[:10]


async def test_what_is_not_there_is_named(bucket, source) -> None:
    with pytest.raises(DownloadFailed, match="s3://weights/none: no such object"):
        await source.locate("s3://weights/none")
    with pytest.raises(DownloadFailed, match="s3://no-such-bucket/x: no such object"):
        await source.locate("s3://no-such-bucket/x")


async def test_an_endpoint_that_does_not_answer_may_be_tried_again(bucket, monkeypatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    async with S3(DownloadSettings()) as source:
        with pytest.raises(Interrupted, match="s3://weights/model"):
            await source.locate("s3://weights/model")


@pytest.mark.parametrize("uri", ["s3://weights", "s3://weights/", "s3:///key", "s3://b/k?acl=1", "s3://../key"])
async def test_what_names_no_object_is_refused(source, uri) -> None:
    with pytest.raises(ConfigInvalid, match="expected s3://bucket/key"):
        await source.locate(uri)
