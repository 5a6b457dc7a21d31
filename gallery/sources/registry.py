"""A client of container registries: manifests and blobs by the OCI distribution protocol, anonymous tokens included."""

import asyncio
import hashlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

import orjson
from multidict import CIMultiDict
from yarl import URL

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.network import Answer, Network, shown
from gallery.sources.http import HTTPRemote, open_remote

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_ANSWER_LIMIT = 4 << 20
"""Bytes of a manifest; registries have the same limit."""
_TOKEN_S, _TOKEN_MARGIN_S = 60.0, 10.0
"""How long a token holds when the registry doesn't say, and how long before its end a new one is fetched."""
_COMPONENT = r"[A-Za-z0-9]+(?:(?:\.|__?|-+)[A-Za-z0-9]+)*"
_REFERENCE = re.compile(
    r"(?:(?P<registry>[^/@]*[.:][^/@]*|localhost)/)?"
    rf"(?P<repository>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>\w[\w.-]{0,127}))?(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_CHALLENGE = re.compile(r"\s*Bearer\s+(.*)", re.IGNORECASE)
_PARAMETER = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Reference:
    """What `[registry/]repository[:tag][@digest]` names."""

    registry: str
    repository: str
    version: str
    """Tag or digest."""

    @classmethod
    def parse(cls, uri: str, registry: str) -> "Reference":
        """`registry`: where it is looked for when the URI names none, in `library/` if it has no folder either.

        Raises ConfigInvalid.
        """
        match = _REFERENCE.fullmatch(uri.partition("://")[2])
        if match is None:
            scheme = uri.partition("://")[0]
            raise ConfigInvalid(f"{uri}: expected {scheme}://[registry/]repository[:tag] or …@sha256:<digest>")
        host, repository = match["registry"] or registry, match["repository"]
        if host == registry and "/" not in repository:
            repository = f"library/{repository}"
        return cls(host, repository, match["digest"] or match["tag"] or "latest")


@dataclass(slots=True)
class _Token:
    """A bearer token for one repository, and how to get the next."""

    realm: URL
    value: str = ""
    until: float = 0.0


class Registry:
    """One registry, for any number of repositories."""

    def __init__(self, network: Network, host: str, *, may_be_plain: bool) -> None:
        self._network = network
        self._urls = [f"https://{host}"] + ([f"http://{host}"] if may_be_plain else [])
        self._settling = asyncio.Lock()
        self._tokens: dict[str, _Token] = {}

    async def manifest(self, repository: str, version: str) -> dict[str, Any]:
        """The manifest or index of a tag or a digest. Raises as `Network.get`."""
        accept = {"Accept": ", ".join(MANIFESTS)}
        async with self._get(repository, f"manifests/{version}", accept) as answer:
            body = await answer.read(_ANSWER_LIMIT)
        if (digest := _DIGEST.fullmatch(version)) and hashlib.sha256(body).hexdigest() != digest[1]:
            raise DownloadFailed(f"{repository}: the registry's manifest is not the one of {version}")
        try:
            manifest = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise DownloadFailed(f"{repository}: its manifest is no JSON: {error}") from error
        if not isinstance(manifest, dict) or manifest.get("schemaVersion") != 2:
            raise DownloadFailed(f"{repository}: its manifest is of another format than OCI's and Docker's second")
        return manifest

    async def blob(self, repository: str, digest: str, size: int) -> "Blob":
        """A layer. Raises as `open_remote`."""
        match = _DIGEST.fullmatch(digest)
        if match is None:
            raise DownloadFailed(f"{repository}: the layer {digest} has no sha256")
        url = f"{await self._base()}/v2/{repository}/blobs/{digest}"
        remote = await open_remote(
            self._network, url, headers=await self.authorization(repository), sha256=match[1], size=size
        )
        return Blob(self, repository, remote, remote.size, digest, match[1], remote.ranges)

    async def authorization(self, repository: str) -> dict[str, str]:
        """Headers of a request for this repository: a token that still holds, if the registry wants one."""
        token = self._tokens.get(repository)
        if token is None:
            return {}
        if time.monotonic() > token.until:
            await self._renew(token)
        return {"Authorization": f"Bearer {token.value}"}

    @asynccontextmanager
    async def _get(self, repository: str, path: str, headers: dict[str, str]) -> AsyncIterator[Answer]:
        """GET with a token, where the registry asks for one (distribution spec, "token authentication")."""
        url = f"{await self._base()}/v2/{repository}/{path}"
        if repository not in self._tokens:
            async with self._network.get(url, headers, accept=(200, 401)) as answer:
                if answer.status == HTTPStatus.OK:
                    yield answer
                    return
                self._tokens[repository] = _challenged(answer, repository)
        async with self._network.get(url, headers | await self.authorization(repository)) as answer:
            yield answer

    async def _base(self) -> str:
        """Its URL. Whether it speaks TLS is found out as Docker does for registries that are listed as insecure."""
        async with self._settling:
            for url in self._urls if len(self._urls) > 1 else ():
                try:
                    async with self._network.get(f"{url}/v2/", accept=range(200, 500)):
                        self._urls = [url]
                        break
                except DownloadFailed:
                    continue
        return self._urls[0]  # where neither answers, the request that comes now says why

    async def _renew(self, token: _Token) -> None:
        asked = time.monotonic()
        async with self._network.get(str(token.realm)) as answer:
            body = await answer.read(_ANSWER_LIMIT)
        try:
            given = orjson.loads(body)
            token.value = given.get("token") or given["access_token"]
            token.until = asked + float(given.get("expires_in", _TOKEN_S)) - _TOKEN_MARGIN_S
        except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError, ValueError) as error:
            raise DownloadFailed(f"{shown(token.realm)}: gave no token") from error


@dataclass(slots=True)
class Blob:
    """Remote: a layer. Each read has a token that holds, however long the download takes."""

    registry: Registry
    repository: str
    remote: HTTPRemote
    size: int | None
    version: str
    sha256: str
    ranges: bool

    async def read(self, start: int, end: int | None) -> AsyncGenerator[bytes, None]:
        headers = CIMultiDict(await self.registry.authorization(self.repository))
        blocks = replace(self.remote, headers=headers).read(start, end)
        try:
            async for block in blocks:
                yield block
        finally:
            await blocks.aclose()


def _challenged(answer: Answer, repository: str) -> _Token:
    """How to get the token that a 401 asks for. Raises DownloadFailed where it asks for a password."""
    for header in answer.headers.getall("WWW-Authenticate", []):
        if not (challenge := _CHALLENGE.match(header)):
            continue
        asked = dict(_PARAMETER.findall(challenge[1]))
        realm = URL(asked.get("realm", ""))
        if realm.absolute:
            scope = asked.get("scope") or f"repository:{repository}:pull"
            return _Token(realm.update_query({"service": asked.get("service", ""), "scope": scope}))
    raise DownloadFailed(f"{shown(answer.response.url)}: the registry wants a login, which is not supported")
