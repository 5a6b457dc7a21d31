"""Who may call: the request's API key, and what its role allows."""

from collections.abc import Iterable, Iterator

from fastapi import Depends
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.keyring import Keyring
from api.keys import OPEN, Key, Role
from api.meter import Meter
from api.quota_leases import QuotaLeases
from deployments.errors import Forbidden, Unauthorized

OPEN_PATHS = frozenset({"/healthz", "/readyz"})
"""Answered without a key: what watches the server needs none."""

KEY_HEADERS = (b"x-api-key", b"xi-api-key")
"""Headers that hold a bare key, beside `Authorization: Bearer`: Anthropic's and ElevenLabs' clients send these."""

LOOKS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods of requests that change nothing."""


class KeyMiddleware:
    """Lets requests with one of the keys pass, or all when there are none.

    Sets the request's `key`, and its `meter`, which it closes at the request's end.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, leases: QuotaLeases) -> None:
        self.app = app
        self.keyring = keyring
        self.leases = leases

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        key = self.key(scope)
        meter = Meter(key, self.leases)
        scope.setdefault("state", {}).update(key=key, tenant=key.tenant, meter=meter)
        if key.role is Role.READ_ONLY and scope["method"] not in LOOKS:
            raise Forbidden("The API key may only look: its role is read-only.")

        async def send_with_limits(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *meter.headers()]
            await send(message)

        try:
            await self.app(scope, receive, send_with_limits if key.limits else send)
        finally:
            meter.close()

    def key(self, scope: Scope) -> Key:
        """The caller's key. Raises Unauthorized."""
        if self.keyring.open or scope["path"] in OPEN_PATHS:
            return OPEN
        presented = list(_keys(scope["headers"]))
        if not presented:
            raise Unauthorized("An API key is required: send it as `Authorization: Bearer <key>`.")
        for key in map(self.keyring.find, presented):
            if key:
                return key
        raise Unauthorized("Incorrect API key provided.")


def _keys(headers: Iterable[tuple[bytes, bytes]]) -> Iterator[bytes]:
    for name, value in headers:
        if name in KEY_HEADERS:
            yield value.strip()
        elif name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                yield key.strip()


async def _require_admin(request: Request) -> None:
    key: Key = request.state.key
    if key.role is not Role.ADMIN:
        raise Forbidden("This needs a key with the role admin.")


ADMIN_ONLY = Depends(_require_admin)
"""Dependency of routes that change what is installed or what runs. Without keys everybody is an admin."""
