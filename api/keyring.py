"""The API keys in force: those of the settings, and those of a file that is watched."""

import asyncio
import logging
from collections.abc import Iterator
from pathlib import Path

from api.keys import OPEN, Key, KeyRow, digest, known_by_digest, read_key_file
from api.settings import Settings
from deployments.errors import ConfigInvalid

logger = logging.getLogger("manta.keys")

FILE = "api_keys.json"
"""In the setting `config_dir`."""
WATCH_S = 1.0
"""How often the file is looked at. A look works where nothing tells of changes: a folder that isn't there yet, a
network file system, a ConfigMap, whose files are links that are exchanged."""


class Keyring:
    """Which keys there are. Keeps SHA-256 digests, never a key.

    Without keys the server is open to all. Once it has had one it is never open again, but by a restart: were all keys
    taken away, or did their file get lost, nobody would pass. A file that can't be read leaves the keys as they are,
    and closes a server that was open.
    """

    def __init__(self, settings: Settings, *, guarded: bool = False) -> None:
        """Reads no file yet. `guarded`: there were keys when the server started."""
        self._rows: tuple[KeyRow, ...] = settings.key_rows()
        self._path = settings.config_dir / FILE
        self._seen: object = None
        self._known = known_by_digest([("keys", self._rows)])
        self._guarded = guarded or bool(self._known)

    @property
    def open(self) -> bool:
        """Everybody passes."""
        return not self._guarded

    def __iter__(self) -> Iterator[Key]:
        """All keys, sorted by name."""
        return iter(sorted(self._known.values(), key=lambda key: key.name))

    def find(self, presented: bytes) -> Key | None:
        """The key that a client sent; OPEN where there are none."""
        if self.open:
            return OPEN
        # As good as comparing with each key in constant time, and as quick for a thousand keys as for one: the table
        # compares keyed hashes (SipHash) of digests, and the digits of a SHA-256 nobody can choose. Time tells nothing.
        return self._known.get(digest(presented))

    def refresh(self) -> None:
        """Take up what has changed in the file. Blocks. Logs what is wrong with it."""
        seen = _look(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            added = read_key_file(self._path) if seen else []
            self._known = known_by_digest([("keys", self._rows), (str(self._path), added)])
        except ConfigInvalid as error:
            self._guarded = True
            logger.error("%s. Until that is mended the API keys stay as they were.", error.message)  # noqa: TRY400
            return
        self._guarded = self._guarded or bool(self._known)
        logger.info("API keys in force: %d", len(self._known))

    async def watch(self) -> None:
        """Refresh, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            await asyncio.to_thread(self.refresh)


def _look(path: Path) -> object:
    """Something else whenever the file is another one; None: there is none."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.errno
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
