"""A stand-in for the Hugging Face Hub on loopback: repositories, revisions, gated models, paged listings.

Its answers are what huggingface_hub, the hub's own client, expects of the hub; a test lets that client loose on it.
Large files are sent on to a server of their own, as the hub does it.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from tests.file_server import FileServer
from tests.loopback import Handler, Loopback

TOKEN = "hf_of-somebody"
"""Of an account that may see the private repositories, and has accepted the terms of those in `accepted`."""

_LARGE = (".gguf", ".safetensors", ".bin")
_RESOLVE = re.compile(r"/(?P<repository>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_CACHED = re.compile(r"/api/resolve-cache/models/(?P<repository>[^/]+/[^/]+)/(?P<revision>[^/]+)/(?P<path>.+)")
_TREE = re.compile(r"/api/models/(?P<repository>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")


@dataclass(slots=True)
class Repository:
    """Files by revision and path."""

    revisions: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: bool = False
    gated: bool = False


class HubServer(Loopback):
    """Repositories go in with `add`; `with HubServer() as hub`."""

    def __init__(self) -> None:
        self.storage = FileServer()
        """Where the large files are."""
        self.repositories: dict[str, Repository] = {}
        self.accepted: set[str] = set()
        self.page_size = 1000
        self.next_page_host = ""
        """Set: listings go on there."""
        self.authorizations: list[str] = []
        """`Authorization` of the requests so far; empty where one had none."""
        super().__init__(_Handler)

    def __enter__(self) -> Self:
        self.storage.__enter__()
        return super().__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, traceback)
        self.storage.__exit__(kind, error, traceback)

    def add(
        self,
        name: str,
        files: Mapping[str, bytes],
        *,
        revision: str = "main",
        private: bool = False,
        gated: bool = False,
    ) -> None:
        repository = self.repositories.setdefault(name, Repository(private=private, gated=gated))
        repository.revisions[revision] = dict(files)
        for path, content in files.items():
            if path.endswith(_LARGE):
                self.storage.add(_stored(content), content)


class _Handler(Handler):
    @property
    def hub(self) -> HubServer:
        owner: HubServer = self.server.owner
        return owner

    def get(self) -> None:
        self.hub.authorizations.append(self.headers.get("Authorization", ""))
        path = urlsplit(self.path).path
        if match := _RESOLVE.fullmatch(path):
            self._resolve(match)
        elif match := _CACHED.fullmatch(path):
            self._cached(match)
        elif match := _TREE.fullmatch(path):
            self._tree(match)
        else:
            self._refuse(404, "", "Not Found")

    def _resolve(self, match: re.Match[str]) -> None:
        content = self._content(match)
        if content is None:
            return
        large = match["path"].endswith(_LARGE)
        etag = hashlib.sha256(content).hexdigest() if large else _git_oid(content)
        headers = {
            "X-Repo-Commit": _commit(match["repository"]),
            "X-Linked-Etag": f'"{etag}"',
            "X-Linked-Size": str(len(content)),
        }
        if large:
            location = f"{self.hub.storage.url}/{_stored(content)}?Signature=secret"
            self.send(302, b"Found", Location=location, **headers)
        else:
            cached = f"/api/resolve-cache/models/{match['repository']}/{match['revision']}/{match['path']}"
            self.send(307, b"Temporary Redirect", Location=cached, **headers)

    def _cached(self, match: re.Match[str]) -> None:
        if (content := self._content(match)) is not None:
            commit = _commit(match["repository"])
            self.send(200, content, ETag=f'"{_git_oid(content)}"', **{"X-Repo-Commit": commit})

    def _content(self, match: re.Match[str]) -> bytes | None:
        """What is asked for; otherwise the error has been sent."""
        files = self._files(match)
        if files is not None and unquote(match["path"]) not in files:
            self._refuse(404, "EntryNotFound", "Entry not found")
            return None
        return None if files is None else files[unquote(match["path"])]

    def _files(self, match: re.Match[str]) -> dict[str, bytes] | None:
        name, known = match["repository"], self.headers.get("Authorization") == f"Bearer {TOKEN}"
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and not known):
            if known:
                self._refuse(404, "RepoNotFound", "Repository not found")
            else:
                self._refuse(401, "RepoNotFound", "Invalid username or password.")
        elif "Authorization" in self.headers and not known:
            self._refuse(401, "", "Invalid credentials in Authorization header")
        elif repository.gated and name not in self.hub.accepted:
            self._refuse(403 if known else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif (files := repository.revisions.get(unquote(match["revision"]))) is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {match['revision']}")
        else:
            return files
        return None

    def _tree(self, match: re.Match[str]) -> None:
        files = self._files(match)
        if files is None:
            return
        folder = f"{unquote(match['path'])}/" if match["path"] else ""
        below = {path: content for path, content in files.items() if path.startswith(folder)}
        if not below:
            self._refuse(404, "EntryNotFound", f"{folder} does not exist on {match['revision']}")
            return
        entries = _entries(below)
        start = int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        end = start + self.hub.page_size
        headers = {}
        if end < len(entries):
            at = f"{self.hub.next_page_host or self.hub.url}{urlsplit(self.path).path}"
            headers["Link"] = f'<{at}?recursive=true&cursor={end}>; rel="next"'
        self.send(200, json.dumps(entries[start:end]).encode(), **headers)

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self.send(status, body, **{"X-Error-Code": code, "X-Error-Message": message})


def _entries(files: Mapping[str, bytes]) -> list[dict[str, object]]:
    """As the hub lists them: folders too, and of large files what Git LFS knows of them."""
    folders = sorted({path.rpartition("/")[0] for path in files} - {""})
    entries: list[dict[str, object]] = [
        {"type": "directory", "oid": _commit(folder), "size": 0, "path": folder} for folder in folders
    ]
    for path, content in files.items():
        entry: dict[str, object] = {"type": "file", "oid": _git_oid(content), "size": len(content), "path": path}
        if path.endswith(_LARGE):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 135}
        entries.append(entry)
    return entries


def _stored(content: bytes) -> str:
    return f"storage/{quote(hashlib.sha256(content).hexdigest())}"


def _git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def _commit(of: str) -> str:
    return hashlib.sha1(of.encode()).hexdigest()
