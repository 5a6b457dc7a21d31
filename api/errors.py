"""Every error as OpenAI's JSON. One function decides what a client sees of an exception, in a stream too."""

import logging
import math
import traceback
from typing import Any

import orjson
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.validation import first_mistake
from deployments.errors import BodyTooLarge, ClientGone, InvalidRequest, MantaError, MethodNotAllowed, RouteNotFound

log = logging.getLogger(__name__)

HANDLED = (MantaError, HTTPException, RequestValidationError, ClientDisconnect)
"""What routes and the framework raise on purpose; `create_app` registers `answer_error` for each."""

_BY_STATUS: dict[int, type[MantaError]] = {404: RouteNotFound, 405: MethodNotAllowed, 413: BodyTooLarge}


def client_error(error: Exception) -> MantaError:
    """What a client sees of an exception. What is not ours is an "internal error" to it and a traceback in the log."""
    for found in (
        error,
        getattr(error, "cause", None),
        error.__cause__,
    ):  # `cause`: Ray's wrapper; `str` is a traceback
        if isinstance(found, MantaError):
            return found
    if isinstance(error, RequestValidationError):
        return first_mistake(error.errors())
    if isinstance(error, ClientDisconnect):
        return ClientGone("the client left while it sent the request")
    if isinstance(error, HTTPException) and error.status_code < 500:
        return _BY_STATUS.get(error.status_code, InvalidRequest)(str(error.detail))
    log.error("internal error", exc_info=error)
    return MantaError("internal error")


def error_body(error: MantaError) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_response(error: MantaError) -> Response:
    """The whole answer for an error."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Response(orjson.dumps(error_body(error)), error.status, headers, "application/json")


def let_go(error: BaseException | None) -> None:
    """Free what the frames hold that an answered error came through, such as a gigabyte of audio.

    Futures and the errors in them make cycles, which would keep it until the next full garbage collection. Causes make
    some too: an error of a replica and Ray's wrapper of it are each other's.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


async def answer_error(request: Request, error: Exception) -> Response:
    """The one exception handler of the application."""
    shown = client_error(error)
    let_go(error)
    if isinstance(error, HTTPException) and (why := _WHY.get(type(shown))):
        shown = type(shown)(f"{request.method} {request.url.path}: {why}")
    response = error_response(shown)
    if isinstance(error, HTTPException) and "Allow" in (error.headers or {}):
        response.headers["Allow"] = ", ".join(_allowed(request))
    if shown.status >= 500:
        log.warning("%s: %s", shown.code, shown.message)
    return response


def _allowed(request: Request) -> list[str]:
    """The methods of a path. The framework's own header has those of the first route only that has the path."""
    scopes = [{**request.scope, "method": method} for method in _METHODS]
    routes = request.app.routes
    return [scope["method"] for scope in scopes if any(route.matches(scope)[0] is Match.FULL for route in routes)]


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")

_WHY: dict[type[MantaError], str] = {
    RouteNotFound: "no such route; /swagger/ lists them",
    MethodNotAllowed: "the route does not take this method",
}
"""Better words than the framework's "Not Found"."""


class ErrorMiddleware:
    """Answers what the middlewares inside it raise, and what no handler took."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def watch(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except Exception as error:
            if started or scope["type"] != "http":
                raise  # too late for an answer: the server cuts the connection
            response = await answer_error(Request(scope), error)
            await response(scope, receive, send)
