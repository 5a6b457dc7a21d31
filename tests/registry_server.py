"""A container registry on loopback: the OCI distribution protocol, with token authentication and byte ranges."""

import hashlib
import json
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import Handler, Loopback

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"

_V2 = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<reference>[^/]+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class RegistryServer(Loopback):
    """Content goes in with `push…`; `with RegistryServer() as registry`."""

    def __init__(self, *, tokens: bool = False, token_lifetime: float = 300.0) -> None:
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        """Media type and bytes, by repository and tag or digest."""
        self.blobs: dict[str, bytes] = {}
        self.blob_redirect = ""
        """Set: blobs are sent on to `<there>/<digest>`."""
        self.tokens_given: dict[str, tuple[str, float]] = {}
        """Repository and end, by token."""
        self.requests: list[str] = []
        self.basic = False
        """Ask for a password instead of a token."""
        self.tokens = tokens
        self.token_lifetime = token_lifetime
        super().__init__(_Handler)

    def push(self, repository: str, tag: str, layers: Sequence[tuple[str, bytes]]) -> str:
        """An image or artifact of these layers (media type, content); returns its digest."""
        described = [{"mediaType": kind, "digest": self._blob(blob), "size": len(blob)} for kind, blob in layers]
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": self._blob(b"{}"), "size": 2}
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": described}
        return self.push_manifest(repository, tag, MANIFEST, manifest)

    def push_index(self, repository: str, tag: str, platforms: dict[str, str]) -> str:
        """An index: digests of manifests by `os/architecture`."""
        manifests = []
        for name, digest in platforms.items():
            system, _, architecture = name.partition("/")
            platform = {"os": system, "architecture": architecture}
            manifests.append({"mediaType": MANIFEST, "digest": digest, "size": 1, "platform": platform})
        document = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        return self.push_manifest(repository, tag, INDEX, document)

    def push_manifest(self, repository: str, tag: str, kind: str, manifest: dict[str, Any]) -> str:
        body = json.dumps(manifest).encode()
        digest = _digest(body)
        self.manifests[repository, tag] = self.manifests[repository, digest] = kind, body
        return digest

    def _blob(self, content: bytes) -> str:
        digest = _digest(content)
        self.blobs[digest] = content
        return digest


class _Handler(Handler):
    @property
    def registry(self) -> RegistryServer:
        owner: RegistryServer = self.server.owner
        return owner

    def get(self) -> None:
        self.registry.requests.append(self.path)
        url = urlsplit(self.path)
        if url.path == "/token":
            self._give_token(parse_qs(url.query))
        elif url.path == "/v2/":
            self.send(401 if self.registry.tokens else 200, b"{}")
        elif match := _V2.fullmatch(url.path):
            if self._may_see(match["repository"]):
                self._serve(match)
        else:
            self._refuse(404, "UNSUPPORTED", "no such path")

    def _give_token(self, query: dict[str, list[str]]) -> None:
        if query.get("service") != ["registry.test"]:
            self._refuse(400, "UNSUPPORTED", "no such service")
            return
        _, repository, action = query["scope"][0].split(":")
        assert action == "pull"
        token = f"token-{len(self.registry.tokens_given)}"
        self.registry.tokens_given[token] = repository, time.monotonic() + self.registry.token_lifetime
        body = {"token": token, "expires_in": self.registry.token_lifetime}
        self.send(200, json.dumps(body).encode())

    def _may_see(self, repository: str) -> bool:
        if self.registry.basic:
            self._refuse(401, "UNAUTHORIZED", "login", **{"WWW-Authenticate": 'Basic realm="here"'})
            return False
        if not self.registry.tokens:
            return True
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        of, until = self.registry.tokens_given.get(token, ("", 0.0))
        if of == repository and time.monotonic() < until:
            return True
        scope = f"repository:{repository}:pull"
        challenge = f'Bearer realm="{self.registry.url}/token",service="registry.test",scope="{scope}"'
        self._refuse(401, "UNAUTHORIZED", "authentication required", **{"WWW-Authenticate": challenge})
        return False

    def _serve(self, match: re.Match[str]) -> None:
        reference = match["reference"]
        if match["kind"] == "manifests":
            self._manifest(match["repository"], reference)
        elif reference not in self.registry.blobs:
            self._refuse(404, "BLOB_UNKNOWN", "blob unknown to registry")
        elif self.registry.blob_redirect:
            self.send(307, b"", Location=f"{self.registry.blob_redirect}/{reference}")
        else:
            self._blob(reference, self.registry.blobs[reference])

    def _manifest(self, repository: str, reference: str) -> None:
        kind, body = self.registry.manifests.get((repository, reference), ("", b""))
        if not kind:
            self._refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
        elif kind not in self.headers.get("Accept", ""):
            self._refuse(404, "MANIFEST_UNKNOWN", "OCI manifest found, but Accept header does not support it")
        else:
            self.send(200, body, **{"Content-Type": kind, "Docker-Content-Digest": _digest(body)})

    def _blob(self, digest: str, content: bytes) -> None:
        headers = {"Docker-Content-Digest": digest, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
        span = _RANGE.fullmatch(self.headers.get("Range", ""))
        if span is None or self.headers.get("If-Range", f'"{digest}"') != f'"{digest}"':
            self.send(200, content, **headers)
            return
        start, last = int(span[1]), int(span[2] or len(content) - 1)
        headers["Content-Range"] = f"bytes {start}-{min(last, len(content) - 1)}/{len(content)}"
        self.send(206, content[start : last + 1], **headers)

    def _refuse(self, status: int, code: str, message: str, **headers: str) -> None:
        body = {"errors": [{"code": code, "message": message, "detail": {}}]}
        self.send(status, json.dumps(body).encode(), **headers)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
