"""Headers that keep browsers from making more of an answer than it is."""

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
}
"""Of every answer. HSTS is the business of the proxy that speaks TLS."""

NO_PAGE = "default-src 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of answers: data, should a browser show it as a page."""

PAGES = {
    "/swagger/": "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}
"""Path under which there are pages → their policy. Swagger UI is configured by a script in the page."""


class SecurityHeadersMiddleware:
    """Sets them where the route hasn't. An error is nothing for a cache."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("Content-Security-Policy", policy(scope["path"]))
                if message["status"] >= 400:
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        await self.app(scope, receive, with_headers)


def policy(path: str) -> str:
    return next((pages for prefix, pages in PAGES.items() if path.startswith(prefix)), NO_PAGE)
