"""`s3://bucket/key[?versionId=…]`: an object of Amazon S3, or of what speaks its protocol.

Endpoint, region and credentials are boto3's own: `AWS_ENDPOINT_URL_S3`, `AWS_PROFILE`, a role, … Without credentials
requests go unsigned, as public buckets want it. The endpoint is the operator's choice, not a client's, so its address
may be private.
"""

import asyncio
import base64
import re
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import parse_qs, unquote

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, IncompleteReadError
from botocore.exceptions import ConnectionError as EndpointError

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Changed, Interrupted
from gallery.settings import DownloadSettings
from gallery.sources.base import Whole

THREADS = 32
"""Reads at once; boto3 blocks, and the loop's default threads are there for others too."""

_BLOCK = 1 << 20
_URI = re.compile(r"s3://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9])/(?P<key>[^?]+)(?:\?(?P<query>.*))?")

_REASONS = {
    401: "S3 refuses the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, …)",
    403: "S3 allows no access: wrong or missing credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, …), or no such object",
    404: "no such object",
}
"""By HTTP status. A HEAD's error has no text of its own."""

T = TypeVar("T")


class S3:
    """Objects, named by `s3://bucket/key`."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._config = Config(
            connect_timeout=settings.stall_timeout,
            read_timeout=settings.stall_timeout,
            retries={"total_max_attempts": 1},  # the downloader tries again
            response_checksum_validation="when_required",  # and checks sums
            max_pool_connections=THREADS,
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="s3")
        self._making = threading.Lock()
        self._client: Any = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def locate(self, uri: str) -> Whole:
        match = _URI.fullmatch(uri)
        query = parse_qs(match["query"] or "") if match else {}
        if match is None or query.keys() - {"versionId"}:
            raise ConfigInvalid(f"{uri}: expected s3://bucket/key or s3://bucket/key?versionId=…")
        names = {"Bucket": match["bucket"], "Key": unquote(match["key"])}
        if version := query.get("versionId"):
            names["VersionId"] = version[0]
        head = await self.call(uri, lambda client: client.head_object(**names, ChecksumMode="ENABLED"))
        return Whole(S3Object(uri, self, names, head["ContentLength"], head.get("ETag", ""), _sha256(head)))

    async def call(self, uri: str, work: Callable[[Any], T]) -> T:
        """Run `work(client)` in a thread. boto3's errors become ours."""
        return await self.run(lambda: _translated(uri, lambda: work(self._connected())))

    async def run(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def soon(self, work: Callable[[], None]) -> None:
        """Run `work` in a thread that nobody waits for; at once if the source is closed."""
        try:
            self._threads.submit(work)
        except RuntimeError:
            work()

    def _connected(self) -> Any:
        """The client, made on the first use, in a thread: credentials may come from files and from the network."""
        with self._making:
            if self._client is None:
                session = boto3.Session()
                signed = session.get_credentials() is not None
                config = self._config if signed else self._config.merge(Config(signature_version=UNSIGNED))
                self._client = session.client("s3", config=config)
            return self._client


@dataclass(slots=True)
class S3Object:
    """Remote: one object, in the version that was looked up."""

    uri: str
    source: S3
    names: dict[str, str]
    size: int | None
    version: str
    sha256: str
    ranges: bool = True

    async def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        if start == end or start == self.size:
            return
        wanted = {**self.names, "Range": f"bytes={start}-{'' if end is None else end - 1}"}
        if self.version:
            wanted["IfMatch"] = self.version
        body = _Body(await self.source.call(self.uri, lambda client: client.get_object(**wanted)["Body"]))
        try:
            while block := await self.source.run(lambda: _translated(self.uri, body.read)):
                yield block
        finally:
            self.source.soon(body.close)  # not awaited: after a cancellation closing waits for the read under way


class _Body:
    """A response's body. A cancelled `read` goes on in its thread for a while, so that closing has to wait for it."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._lock = threading.Lock()

    def read(self) -> bytes:
        with self._lock:
            return bytes(self._body.read(_BLOCK))

    def close(self) -> None:
        with self._lock:
            self._body.close()


def _sha256(head: dict[str, Any]) -> str:
    """Hex, where S3 has a sha256 of the whole object; that of a multipart upload may be one of its parts' sums."""
    sum64 = head.get("ChecksumSHA256", "")
    if not sum64 or "-" in sum64 or head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
        return ""
    return base64.b64decode(sum64).hex()


def _translated(uri: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except ClientError as error:
        raise _answered(uri, error) from error
    except (HTTPClientError, EndpointError, IncompleteReadError) as error:
        raise Interrupted(f"{uri}: {error}") from error
    except (BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no URL
        raise DownloadFailed(f"{uri}: {error}") from error


def _answered(uri: str, error: ClientError) -> DownloadFailed:
    """What an error of the server means to us."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = error.response.get("Error", {}).get("Message", "") or str(error)
    if status == 429 or status >= 500:
        return Interrupted(f"{uri}: {message}")
    if status in (412, 416):
        return Changed(f"{uri}: is another object by now")
    return DownloadFailed(f"{uri}: {_REASONS.get(status, message)}")
