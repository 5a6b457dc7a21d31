"""What is counted of each HTTP request."""

import time
from collections.abc import Sequence

from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth import OPEN_PATHS
from deployments import metrics

UNOBSERVED = OPEN_PATHS | {"/metrics"}
"""What watches the server would else be most of what it sees."""

METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
OTHER_METHOD = "other"

UNMATCHED = "unmatched"
"""The route of a request that reached none: no such path, or it was refused before."""


class HttpMetricsMiddleware:
    """Counts requests and their seconds, until the last byte of the answer, by the template of their route.

    Goes around `RequestLogMiddleware`, which says how a request ended, and around nothing that copies the scope.
    """

    def __init__(self, app: ASGIApp, *, prefixes: Sequence[str]) -> None:
        """`prefixes`: those under which routers are included."""
        self.app = app
        self.prefixes = [prefix for prefix in prefixes if prefix]
        self.in_flight = metrics.HTTP_IN_FLIGHT.labels(metrics.INSTANCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNOBSERVED:
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        self.in_flight.inc()
        try:
            await self.app(scope, receive, send)
        finally:
            self.in_flight.dec()
            method = scope["method"] if scope["method"] in METHODS else OTHER_METHOD
            route = self.template(scope)
            metrics.API_CALL.labels(method, route).observe(time.perf_counter() - began)
            metrics.HTTP_REQUESTS.labels(method, route, scope["state"]["status"]).inc()

    def template(self, scope: Scope) -> str:
        """The path of the route that answered, with its parameters' names: `/v1/models/{model}`."""
        route, path = scope.get("route"), scope["path"]
        if route is None:  # the files of a mount have no route
            return scope["root_path"] if "endpoint" in scope else UNMATCHED
        template: str = route.path_format
        for prefix in self.prefixes:  # a route knows nothing of the prefix under which its router was included
            if path.startswith(f"{prefix}/") and not template.startswith(f"{prefix}/"):
                return prefix + template
        return template
