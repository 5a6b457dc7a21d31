"""The address by which a client reaches the server, for links in answers."""

import re

from starlette.requests import Request

from api.settings import Settings

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9_~.-]+)+")


def base_url(request: Request, settings: Settings) -> str:
    """Without a slash at its end: the setting `base_url`, else what the proxy in front says, else what the client used.

    `X-Forwarded-…` that is still there comes from a trusted proxy (api/forwarded.py). What no proxy would write is left
    aside: the link must not become another site's.
    """
    if settings.base_url:
        return settings.base_url
    scheme = _first(request, "x-forwarded-proto").lower()
    host = _first(request, "x-forwarded-host")
    if not _HOST.fullmatch(host):
        host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        host = settings.address
    prefix = _first(request, "x-forwarded-prefix").rstrip("/")
    if not _PREFIX.fullmatch(prefix) or ".." in prefix.split("/"):
        prefix = request.scope.get("root_path", "").rstrip("/")
    return f"{scheme if scheme in ('http', 'https') else request.url.scheme}://{host}{prefix}"


def _first(request: Request, header: str) -> str:
    """What the proxy nearest to the client said."""
    return request.headers.get(header, "").split(",")[0].strip()
