"""Blobs in S3. The client, its threads and its credentials are those of `gallery/sources/s3.py`."""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from deployments.errors import ConfigInvalid, DownloadFailed, StorageFailed
from gallery.blobs import UNREACHABLE, Blob, check_name, gathered, is_name, media_type
from gallery.errors import Interrupted
from gallery.settings import DownloadSettings
from gallery.sources.s3 import S3, S3Object
from gallery.threads import to_the_end

logger = logging.getLogger("manta.blobs")

TRIES = 3
PAUSE_S = 0.5
"""Before the second try; twice as long before the third."""
PART = 8 << 20
"""Bytes of one part of what is put as it comes in. S3 takes 10,000 parts: 80 GB."""

_LOCATION = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])(?P<prefix>/[^?#]*)?")

T = TypeVar("T")


class S3Blobs:
    """Objects under a prefix, `s3://bucket/prefix`; those with another `/` behind it are not ours. It may be empty."""

    def __init__(self, location: str, ttl: float, settings: DownloadSettings | None = None) -> None:
        """`settings`: of the connections. Connects on first use. Raises ConfigInvalid."""
        match = _LOCATION.fullmatch(location)
        if match is None:
            raise ConfigInvalid(f"{location}: expected s3://bucket/prefix")
        self.ttl = ttl
        self._bucket, prefix = match["bucket"], (match["prefix"] or "").strip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._s3 = S3(settings or DownloadSettings())

    async def put(self, name: str, content: bytes) -> None:
        names = self._names(check_name(name))
        kind = media_type(name)
        await self._call(lambda client: client.put_object(**names, Body=content, ContentType=kind))

    async def put_stream(self, name: str, blocks: AsyncIterable[bytes]) -> int:
        upload = _MultipartUpload(self._names(check_name(name)), media_type(name))
        size, small = 0, b""
        async for block in gathered(blocks, PART):
            size += len(block)
            if size < PART:
                small = block  # the only one
            else:  # to the end: what is still on its way would come after `discard`
                await to_the_end(self._call(partial(upload.put, block)))
        if size < PART:
            await to_the_end(self.put(name, small))
        else:
            await to_the_end(self._call(upload.finish))
        return size

    async def find(self, name: str) -> Blob | None:
        if not is_name(name):
            return None
        names = self._names(name)
        head = await self._call(lambda client: _head(client, names))
        if head is None or self._is_too_old(head):
            return None
        found = S3Object(f"s3://{self._bucket}", self._s3, names, head["ContentLength"], head.get("ETag", ""), "")
        return Blob(head["ContentLength"], media_type(name), _age(head), partial(_blocks, found))

    async def delete(self, name: str) -> None:
        names = self._names(check_name(name))
        await self._call(lambda client: client.delete_object(**names))

    async def discard(self, name: str) -> None:
        names = self._names(check_name(name))
        await self.delete(name)
        await self._call(partial(_abort_uploads, names))

    async def expire(self) -> int:
        return await self._call(self._expire) if self.ttl else 0

    async def close(self) -> None:
        await self._s3.__aexit__(None, None, None)

    def _names(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": f"{self._prefix}{name}"}

    def _expire(self, client: Any) -> int:
        count = 0
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
        )
        for page in pages:
            for item in page.get("Contents", ()):
                if is_name(item["Key"].removeprefix(self._prefix)) and self._is_too_old(item):
                    client.delete_object(Bucket=self._bucket, Key=item["Key"])
                    count += 1
        return count

    def _is_too_old(self, item: dict[str, Any]) -> bool:
        return bool(self.ttl) and _age(item) > self.ttl

    async def _call(self, work: Callable[[Any], T]) -> T:
        """`work(client)` in a thread, again where another try may go well: an image took long to make."""
        for tried in range(1, TRIES + 1):
            try:
                return await self._s3.call(f"s3://{self._bucket}/{self._prefix}", work)
            except DownloadFailed as error:
                if tried == TRIES or not isinstance(error, Interrupted):
                    logger.warning("%s", error.message)
                    raise StorageFailed(UNREACHABLE) from error
                await asyncio.sleep(PAUSE_S * 2 ** (tried - 1))
        raise AssertionError("the last try returns or raises")


class _MultipartUpload:
    """An object that is put in parts: they are nothing until it is finished, and stay until it is aborted."""

    def __init__(self, names: dict[str, str], kind: str) -> None:
        self._names = names
        self._kind = kind
        self._parts: list[dict[str, Any]] = []

    def put(self, block: bytes, client: Any) -> None:
        """The next part; at least 5 MiB unless it is the last."""
        if "UploadId" not in self._names:
            begun = client.create_multipart_upload(**self._names, ContentType=self._kind)
            self._names["UploadId"] = begun["UploadId"]
        number = len(self._parts) + 1
        part = client.upload_part(**self._names, PartNumber=number, Body=block)
        self._parts.append({"PartNumber": number, "ETag": part["ETag"]})

    def finish(self, client: Any) -> None:
        client.complete_multipart_upload(**self._names, MultipartUpload={"Parts": self._parts})


def _abort_uploads(names: dict[str, str], client: Any) -> None:
    """Abort what there is of uploads of one object."""
    found = client.list_multipart_uploads(Bucket=names["Bucket"], Prefix=names["Key"])
    for upload in found.get("Uploads", ()):
        if upload["Key"] == names["Key"]:
            client.abort_multipart_upload(**names, UploadId=upload["UploadId"])


async def _blocks(found: S3Object, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(found.read(start, end)) as blocks:
            async for block in blocks:
                yield block
    except DownloadFailed as error:
        logger.warning("%s", error.message)
        raise StorageFailed(UNREACHABLE) from error


def _head(client: Any, names: dict[str, str]) -> dict[str, Any] | None:
    try:
        return dict(client.head_object(**names))
    except ClientError as error:
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == HTTPStatus.NOT_FOUND:
            return None
        raise


def _age(item: dict[str, Any]) -> float:
    """Seconds, by the server's clock and ours."""
    modified: datetime = item["LastModified"]
    return max(0.0, (datetime.now(UTC) - modified).total_seconds())
