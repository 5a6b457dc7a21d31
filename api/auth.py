"""API keys: who may call, and on whose behalf a request runs."""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from enum import StrEnum

from fastapi import Depends
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.errors import Forbidden, Unauthorized

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered without a key: what watches the server needs none."""

KEY_HEADERS = (b"x-api-key", b"xi-api-key")
"""Headers that hold a bare key, beside `Authorization: Bearer`: Anthropic's and ElevenLabs' clients send these."""

ANONYMOUS = "anonymous"


class Role(StrEnum):
    """What a key may do."""

    ADMIN = "admin"
    """Everything."""
    USER = "user"
    """All but changing what is installed and what runs."""
    READ_ONLY = "read-only"
    """Look, and change nothing."""


class KeyMiddleware:
    """Lets requests with one of the keys pass, or all when there are none. Sets the request's `tenant`."""

    def __init__(self, app: ASGIApp, keys: Iterable[str]) -> None:
        self.app = app
        self.digests = [_digest(key.encode()) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            state = scope.setdefault("state", {})
            state["tenant"] = self.tenant(scope)
            state["role"] = Role.ADMIN
        await self.app(scope, receive, send)

    def tenant(self, scope: Scope) -> str:
        """A short hash of the caller's key. Raises Unauthorized."""
        if not self.digests or scope["path"] in OPEN_PATHS:
            return ANONYMOUS
        presented = [_digest(key) for key in _keys(scope["headers"])]
        if not presented:
            raise Unauthorized("An API key is required: send it as `Authorization: Bearer <key>`.")
        for digest in presented:
            # Every key is compared, by digest: neither the time taken nor a key's length tells anything.
            if sum(hmac.compare_digest(digest, known) for known in self.digests):
                return digest.hex()[:12]
        raise Unauthorized("Incorrect API key provided.")


def _keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for name, value in headers:
        if name in KEY_HEADERS:
            yield value.strip()
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield key.strip()


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


async def _require_admin(request: Request) -> None:
    if request.state.role is not Role.ADMIN:
        raise Forbidden("This needs a key with the role admin.")


ADMIN_ONLY = Depends(_require_admin)
"""Dependency of routes that change what is installed or what runs. Without keys everybody is an admin."""
