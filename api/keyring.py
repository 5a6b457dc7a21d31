"""The API keys in force: those of the settings, and those of a file that is watched."""

import asyncio
import hmac
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from api.keys import OPEN, TENANT_DIGITS, Key, KeyRow, digest, known_by_digest, read_key_file
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
        self._guarded = guarded
        self._take(known_by_digest([("keys", self._rows)]))

    @property
    def open(self) -> bool:
        """Everybody passes."""
        return not self._guarded

    def __iter__(self) -> Iterator[Key]:
        """All keys, sorted by name."""
        return iter(sorted((key for alike in self._by_tenant.values() for _, key in alike), key=lambda key: key.name))

    def find(self, presented: bytes) -> Key | None:
        """The key that a client sent; OPEN where there are none."""
        if self.open:
            return OPEN
        sent = digest(presented)
        # The table has keys by their tenant, which is no secret: it stands in logs. All else is compared in constant
        # time, and by digest, so a thousand keys take no longer than one and time tells nothing.
        alike = self._by_tenant.get(sent[:TENANT_DIGITS], ())
        return next((key for known, key in alike if hmac.compare_digest(known, sent)), None)

    def refresh(self) -> None:
        """Take up what has changed in the file. Blocks. Logs what is wrong with it."""
        seen = _look(self._path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            added = read_key_file(self._path) if seen else []
            self._take(known_by_digest([("keys", self._rows), (str(self._path), added)]))
        except ConfigInvalid as error:
            self._guarded = True
            logger.error("%s. Until that is mended the API keys stay as they were.", error.message)  # noqa: TRY400
            return
        logger.info("API keys in force: %d", len(list(self)))

    def _take(self, known: Mapping[str, Key]) -> None:
        by_tenant: dict[str, list[tuple[str, Key]]] = {}
        for identity, key in known.items():
            by_tenant.setdefault(key.tenant, []).append((identity, key))
        self._by_tenant = by_tenant
        self._guarded = self._guarded or bool(known)

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
