"""How many requests a process takes at once."""

from starlette.types import ASGIApp, Receive, Scope, Send

from api.auth import OPEN_PATHS
from deployments.errors import ServerBusy

ALWAYS_TAKEN = OPEN_PATHS | {"/metrics", "/system", "/backend/monitor", "/v1/backend/monitor", "/models/jobs"}
"""What an operator looks at when the server is full. Quick, and done by the ingress or the controller."""

RETRY_AFTER_S = 1.0


class AdmissionMiddleware:
    """Refuses requests beyond `limit` at once. A request counts until the last byte of its answer; 0: no limit."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit
        self.running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in ALWAYS_TAKEN:
            await self.app(scope, receive, send)
            return
        if self.limit and self.running >= self.limit:
            raise ServerBusy(f"The server has {self.limit} requests at once, its limit.").after(RETRY_AFTER_S)
        self.running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.running -= 1
