"""`huggingface://owner/repository/path@revision`: a file of a model repository on the Hugging Face Hub, or a mirror.

The protocol is that of the hub's own client, huggingface_hub: `<endpoint>/<repository>/resolve/<revision>/<path>`
answers with the file, or sends on to where it is stored and says its sha256 and size in headers of its own.
"""

import re
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

import orjson
from multidict import CIMultiDictProxy
from yarl import URL

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Interrupted
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.base import Listed, Remote, Whole
from gallery.sources.http import HTTPRemote, open_remote
from gallery.sources.uri import InRepository
from gallery.sources.vouched import Vouched

DEFAULT_REVISION = "main"
MAX_FILES = 50_000
"""Of one listing."""

_PAGE_LIMIT = 16 << 20
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_ASKED_AGAIN = (200, 206, 401, 403, 404, 416)


class HuggingFace:
    """Files and folders of model repositories."""

    def __init__(self, network: Network, settings: DownloadSettings) -> None:
        self._network = network
        self._endpoint = settings.hf_endpoint.rstrip("/")
        self._headers = {"Authorization": f"Bearer {settings.hf_token}"} if settings.hf_token else {}

    async def locate(self, uri: str) -> Whole:
        place = InRepository.parse(uri)
        if not place.path:
            raise ConfigInvalid(f"{uri}: names a repository, not a file in it")
        url = f"{self._endpoint}/{place.repository}/resolve/{_revision(place)}/{place.quoted_path}"
        try:
            remote = await open_remote(self._network, url, headers=self._headers)
        except Interrupted:
            raise
        except DownloadFailed as error:
            raise await self._explained(uri, url, error) from error
        return Whole(self._vouched(remote))

    async def listing(self, uri: str) -> list[Listed]:
        """All files under it. Raises as `locate`."""
        place = InRepository.parse(uri)
        folder = f"/{place.quoted_path}" if place.path else ""
        page = f"{self._endpoint}/api/models/{place.repository}/tree/{_revision(place)}{folder}?recursive=true"
        at = f"huggingface://{place.repository}" + (f"@{_revision(place)}" if place.revision else "")
        listed: list[Listed] = []
        while page:
            try:
                async with self._network.get(page, self._headers) as answer:
                    entries = orjson.loads(await answer.read(_PAGE_LIMIT))
                    link = _NEXT.search(answer.headers.get("Link", ""))
            except Interrupted:
                raise
            except DownloadFailed as error:
                raise await self._explained(uri, page, error) from error
            except orjson.JSONDecodeError as error:
                raise DownloadFailed(f"{uri}: the hub's listing is no JSON: {error}") from error
            listed += [_listed(at, entry) for entry in entries if entry["type"] == "file"]
            if len(listed) > MAX_FILES:
                raise DownloadFailed(f"{uri}: more than {MAX_FILES} files")
            page = self._own(uri, URL(page).join(URL(link[1]))) if link else ""
        return listed

    def _own(self, uri: str, url: URL) -> str:
        """The URL of a further page, which the token goes to."""
        if url.origin() != URL(self._endpoint).origin():
            raise DownloadFailed(f"{uri}: the hub's listing goes on at another host, {url.host}")
        return str(url)

    def _vouched(self, remote: HTTPRemote) -> Remote:
        """With the checksum in the hub's own redirects; what other hosts say of it doesn't count."""
        at, hub = URL(remote.url), URL(self._endpoint).origin()
        for headers in remote.redirects:
            if at.origin() == hub and (sha256 := _SHA256.fullmatch(headers.get("X-Linked-Etag", ""))):
                return Vouched(remote, sha256[1])
            at = at.join(URL(headers["Location"]))
        return remote

    async def _explained(self, uri: str, url: str, error: DownloadFailed) -> DownloadFailed:
        """Why the hub refuses: it says so in headers, and the error in hand knows the status only."""
        headers = {**self._headers, "Range": "bytes=0-0"}
        async with self._network.get(url, headers, accept=_ASKED_AGAIN) as answer:
            if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                return DownloadFailed(f"{uri}: {_reason(answer.status, answer.headers, token=bool(self._headers))}")
        return error


def _reason(status: int, headers: CIMultiDictProxy[str], *, token: bool) -> str:
    """By `X-Error-Code`, as huggingface_hub does. To a stranger a missing repository looks like a private one: 401."""
    match headers.get("X-Error-Code", ""):
        case "EntryNotFound":
            return "the repository has no such file"
        case "RevisionNotFound":
            return "the repository has no such revision"
        case "GatedRepo" if token:
            return "the model is gated: accept its terms on its page, with the account that the token in HF_TOKEN is of"
        case "GatedRepo":
            return "the model is gated: accept its terms on its page and set HF_TOKEN to a token of that account"
    if status == HTTPStatus.NOT_FOUND or (status == HTTPStatus.UNAUTHORIZED and not token):
        return "no such repository" + ("" if token else ", or a private one; for that, set HF_TOKEN")
    said = headers.get("X-Error-Message", "") or HTTPStatus(status).phrase
    return f"the hub refuses the token in HF_TOKEN: {said}" if token else f"{said}; perhaps HF_TOKEN has to be set"


def _revision(place: InRepository) -> str:
    """As it stands in a URL, where it is one element of the path."""
    return quote(place.revision or DEFAULT_REVISION, safe="")


def _listed(at: str, entry: dict[str, Any]) -> Listed:
    path, lfs = entry["path"], entry.get("lfs") or {}
    return Listed(path, f"{at}/{quote(path)}", lfs.get("size", entry["size"]), lfs.get("oid", ""))
