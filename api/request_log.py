"""One JSON log line per request, and the request's id on every line written for it."""

import asyncio
import logging
import re
import time
import uuid
from contextvars import ContextVar

from pythonjsonlogger.orjson import OrjsonFormatter
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.errors import ClientGone

log = logging.getLogger("manta.request")

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this code runs for."""

QUIET_PATHS = frozenset({"/healthz", "/readyz"})
"""Logged at debug level: something asks every few seconds."""

_SANE_ID = re.compile(r"[\x21-\x7e]{1,128}")


def configure_logging(level: str) -> None:
    """Send every record of this process to stderr as one line of JSON. `level`: as `logging` names it."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        OrjsonFormatter(
            "{asctime}{levelname}{name}{message}{request_id}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
        )
    )
    handler.addFilter(_add_request_id)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _add_request_id(record: logging.LogRecord) -> bool:
    record.request_id = request_id.get() or None
    return True


class RequestLogMiddleware:
    """Gives each request an id (the client's own `X-Request-ID`, if it sent a sane one), and logs its end.

    Whoever is outside finds in the scope's state with what `status` it ended: 499 when the client left.
    """

    def __init__(self, app: ASGIApp, *, answers_request_id: bool = True) -> None:
        self.app = app
        self.answers_request_id = answers_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        identity = _sane(headers.get("x-request-id")) or uuid.uuid4().hex
        correlation = _sane(headers.get("x-correlation-id")) or identity
        state = scope["state"] = {**scope.get("state", {}), "request_id": identity}
        token = request_id.set(identity)
        began = time.perf_counter()
        status, sent, whole, gone = 500, 0, False, False

        async def watched_receive() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or (message["type"] == "http.disconnect" and not whole)
            return message

        async def watched_send(message: Message) -> None:
            nonlocal status, sent, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                answered = MutableHeaders(scope=message)
                if self.answers_request_id:
                    answered["X-Request-ID"] = identity
                answered["X-Correlation-ID"] = correlation
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
                whole = not message.get("more_body", False)
            await send(message)

        try:
            await self.app(scope, watched_receive, watched_send)
        except asyncio.CancelledError:  # how Ray Serve tells that the client left
            gone = not whole
            raise
        finally:
            state["status"] = ClientGone.status if gone else status
            log.log(
                logging.DEBUG if scope["path"] in QUIET_PATHS else logging.INFO,
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "client": scope["client"][0] if scope.get("client") else None,
                    "status": state["status"],
                    "ms": round((time.perf_counter() - began) * 1000, 1),
                    "bytes": sent,
                    "tenant": state.get("tenant"),
                },
            )
            request_id.reset(token)


def _sane(value: str | None) -> str | None:
    return value if value and _SANE_ID.fullmatch(value) else None
