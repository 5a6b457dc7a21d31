"""Whose request it is, and what proxies say of it: `X-Forwarded-…`, believed of trusted ones only."""

import os
from collections.abc import Iterable, Mapping
from enum import StrEnum
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.types import ASGIApp, Receive, Scope, Send

from api.ray_env import HAPROXY, HAPROXY_PATH

IP = IPv4Address | IPv6Address


class Front(StrEnum):
    """What stands between the clients and this process, and with that, who knows their addresses."""

    NOTHING = "nothing"
    """Nothing, or Serve's Python proxy, which passes the connection's address on."""
    HAPROXY = "haproxy"
    """Serve's HAProxy by `configs/haproxy.sh`: the address is the last of X-Forwarded-For."""
    MUTE_HAPROXY = "mute haproxy"
    """Serve's HAProxy by itself: nobody knows it, and anybody can have written X-Forwarded-For."""

    @classmethod
    def of(cls, environ: Mapping[str, str] = os.environ) -> "Front":
        """As this process's environment says."""
        if environ.get("RAY_SERVE_ENABLE_HA_PROXY") != "1":
            return cls.NOTHING
        return cls.HAPROXY if environ.get(HAPROXY_PATH) == str(HAPROXY) else cls.MUTE_HAPROXY


class ForwardedMiddleware:
    """Sets a request's client and scheme, and removes `X-Forwarded-…` that no trusted proxy sent.

    A proxy is trusted by its address; proxies behind each other, each by the one in front of it. Whoever reaches the
    port of an ingress without HAProxy in between can claim anything: those ports are the cluster's own.
    """

    def __init__(self, app: ASGIApp, *, trusted: Iterable[str], front: Front) -> None:
        self.app = app
        self.front = front
        self._networks = [ip_network(text, strict=False) for text in trusted]
        self.trusts = lru_cache(maxsize=4096)(self._trusts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(self.seen(scope) if scope["type"] == "http" else scope, receive, send)

    def seen(self, scope: Scope) -> Scope:
        """The request as it really is."""
        chain = _listed(scope, b"x-forwarded-for")
        peer = self._peer(scope, chain)
        client = peer
        while client and self.trusts(client) and chain and (before := address(chain.pop())):
            client = before
        trusted = bool(peer and self.trusts(peer))
        proto = _listed(scope, b"x-forwarded-proto")[:1] if trusted else []
        # Uvicorn believes whatever connects from this machine, and that is HAProxy. What it is told is plain HTTP.
        scheme = scope.get("scheme", "http") if self.front is Front.NOTHING else "http"
        if proto and proto[0].lower() in ("http", "https"):
            scheme = proto[0].lower()
        headers = scope["headers"]
        if not trusted:
            headers = [(name, value) for name, value in headers if not name.startswith(b"x-forwarded-")]
        return {**scope, "client": (str(client), 0) if client else None, "scheme": scheme, "headers": headers}

    def _peer(self, scope: Scope, chain: list[str]) -> IP | None:
        """Who has connected to the server. Taken from `chain` where it stands there."""
        if self.front is Front.NOTHING:
            return address(scope["client"][0]) if scope.get("client") else None
        return address(chain.pop()) if self.front is Front.HAPROXY and chain else None

    def _trusts(self, client: IP) -> bool:
        return any(client in network for network in self._networks)


def address(text: str) -> IP | None:
    """The IP address that a proxy writes, with a port or without; None when it is none."""
    host, _, port = text.rpartition(":")
    if "." in host or host.startswith("["):  # not the end of an IPv6 address
        text = host if port.isdigit() else text
    try:
        found = ip_address(text.strip("[]"))
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def _listed(scope: Scope, wanted: bytes) -> list[str]:
    """The elements of a header that is a list, those of all its lines."""
    lines = [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
    return [item for line in lines for item in map(str.strip, line.split(",")) if item]
