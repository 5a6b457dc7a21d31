"""What web pages of other sites may not do to a server that needs no key: a browser reaches it for any of them."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth import OPEN_PATHS
from api.keys import OPEN
from deployments.errors import Forbidden

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""They change nothing, and no browser shows a page the answer unless CORS allows it."""

PRIVATE_SUFFIXES = (".localhost", ".local", ".internal")
"""Ends of names that no stranger can own (RFC 6761, RFC 6762, ICANN 2024)."""


class CrossSiteMiddleware:
    """Refuses what only a web page of another site would send, where a request needs no key and CORS is off.

    - A request that changes something, from another site: `Sec-Fetch-Site` says so, or, of browsers that send it to
      HTTPS and localhost alone, `Origin`. Applications with a web view (`app://…`) are no sites.
    - Any request to a server on loopback under a foreign name: a site that had its own name resolve to 127.0.0.1 (DNS
      rebinding) is no other site to the browser.

    Stands behind the keys: with one, no browser sends it for a page that doesn't know it.
    """

    def __init__(self, app: ASGIApp, *, base_url: str | None, loopback: bool) -> None:
        """`loopback`: the server listens there alone."""
        self.app = app
        self.known = _host(base_url) if base_url else ""
        self.loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS and scope["state"]["key"] is OPEN:
            self.check(scope["method"], Headers(scope=scope))
        await self.app(scope, receive, send)

    def check(self, method: str, headers: Headers) -> None:
        """Raise Forbidden."""
        host = _host(f"//{headers.get('host', '')}")
        if self.loopback and not is_private(host) and host != self.known:
            raise Forbidden(
                f"This server listens on loopback and needs no key, so it answers to local names alone, not {host!r}. "
                "If a proxy passes that name on, set base_url to the server's address there, or set API keys."
            )
        if method not in SAFE_METHODS and self._is_foreign(headers, host):
            raise Forbidden(
                "A web page of another site sent this, and this server needs no key. Set CORS (and CORS_ALLOW_ORIGINS) "
                "to let pages in, base_url to the address that browsers see, or API keys."
            )

    def _is_foreign(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin", "")
        if origin and origin != "null" and not origin.startswith(("http://", "https://")):
            return False
        if site := headers.get("sec-fetch-site"):
            return site == "cross-site"
        forwarded = _host(f"//{headers.get('x-forwarded-host', '')}")
        return bool(origin) and _host(origin) not in {name for name in (host, forwarded, self.known) if name}


def is_loopback(host: str) -> bool:
    """Of a server that listens on `host`, only this machine can be a client."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_private(host: str) -> bool:
    """An address, or a name that the DNS of the world doesn't have. Empty: no browser leaves it out."""
    try:
        ip_address(host)
    except ValueError:
        return "." not in host or host.endswith(PRIVATE_SUFFIXES)
    return True


def _host(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")
    except ValueError:  # brackets without an address between them
        return "?.invalid"
