"""The galleries: which there are, what they offer, and where an entry is found by its name."""

import asyncio
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from deployments.errors import AlreadyExists, DownloadFailed, GalleryNotFound, InvalidRequest, ModelNotFound
from gallery import records
from gallery.cached_index import CachedIndex
from gallery.index import Entry, Texts, find
from gallery.settings import Gallery, GallerySettings
from gallery.store import GalleryChange, GalleryStore

logger = logging.getLogger("manta.gallery.galleries")

_NAME = re.compile(r"[^\s@/\x00-\x1f]([^@/\x00-\x1f]{0,98}[^\s@/\x00-\x1f])?")


@dataclass(frozen=True, slots=True)
class Available:
    """A model that can be installed."""

    entry: Entry
    gallery: Gallery
    installed: bool
    """Under whatever name."""


@dataclass(frozen=True, slots=True)
class Page:
    """A part of what was searched for."""

    items: tuple[Available, ...]
    total: int
    """Of all pages."""


class Galleries:
    """The galleries of the settings, as the API has changed them, in the order in which they are searched."""

    def __init__(self, store: GalleryStore, sources: Texts, settings: GallerySettings) -> None:
        self._store = store
        self._sources = sources
        self._settings = settings
        self._galleries: dict[str, Gallery] = {}
        self._indexes: dict[str, CachedIndex] = {}
        self._changing = asyncio.Lock()

    async def start(self) -> None:
        """Read what the API has changed."""
        changes = await asyncio.to_thread(self._store.gallery_changes)
        self._galleries = {gallery.name: gallery for gallery in merged(self._settings.galleries, changes)}
        self._indexes = {gallery.name: self._index(gallery) for gallery in self._galleries.values()}

    async def stop(self) -> None:
        await asyncio.gather(*(index.close() for index in self._indexes.values()))

    # ---- which there are ----

    def registered(self) -> list[Gallery]:
        return [*self._galleries.values()]

    async def add(self, gallery: Gallery) -> None:
        """Add it at the end, for good. Its index is read when it is first asked for.

        Raises AlreadyExists, and InvalidRequest for a name that can't be one.
        """
        if not _NAME.fullmatch(gallery.name):
            raise InvalidRequest(
                f"{gallery.name!r} can't be a gallery's name: it is empty or too long, begins or ends with a space, "
                "or has '@' or '/' in it"
            ).at("name")
        if not gallery.url:
            raise InvalidRequest("url: the address of the gallery's index is missing").at("url")
        async with self._changing:
            if gallery.name in self._galleries:
                raise AlreadyExists(f"{gallery.name} already exists").at("name")
            await self._store_change(gallery.name, gallery.url, gallery.allow_pickles)
            self._galleries[gallery.name] = gallery
            self._indexes[gallery.name] = self._index(gallery)

    async def remove(self, name: str) -> None:
        """Remove it, for good. Raises GalleryNotFound."""
        async with self._changing:
            if name not in self._galleries:
                raise GalleryNotFound(f"{name} is not currently registered").at("name")
            await self._store_change(name, "")
            del self._galleries[name]
            await self._indexes.pop(name).forget()

    def problems(self) -> dict[str, str]:
        """Gallery → why its index could not be read, or not wholly, when it was last tried."""
        return {name: index.problem for name, index in self._indexes.items() if index.problem}

    async def _store_change(self, name: str, url: str, allow_pickles: bool = False) -> None:
        settings = {gallery.name: gallery for gallery in self._settings.galleries}.get(name)
        if (settings.url if settings else "") == url:
            await asyncio.to_thread(self._store.forget_gallery_change, name)  # it is as the settings have it
        else:
            change = GalleryChange(name, url, allow_pickles, instead_of=settings.url if settings else "")
            await asyncio.to_thread(self._store.set_gallery_change, change)

    def _index(self, gallery: Gallery) -> CachedIndex:
        folder = self._settings.data_path / "galleries"
        return CachedIndex(gallery, self._sources, folder, self._settings.index_ttl)

    # ---- what they offer ----

    async def find(self, name: str) -> tuple[Gallery, Entry]:
        """The entry `name`, of the first gallery that has it, or `gallery@name`; in any case.

        Raises ModelNotFound, GalleryNotFound, and DownloadFailed when the gallery that is named can't be read.
        """
        prefix, at, rest = name.partition("@")
        if at and (gallery := self._galleries.get(prefix)):
            return gallery, find(await self._indexes[prefix].entries(), rest)
        unread = []
        for gallery in self.registered():
            try:
                return gallery, find(await self._indexes[gallery.name].entries(), name)
            except ModelNotFound:
                continue
            except DownloadFailed as error:
                unread.append(error.message)
        raise ModelNotFound("; ".join([f"no model found with name {name!r}", *unread]))

    async def available(
        self, search: str = "", tag: str = "", gallery: str = "", offset: int = 0, limit: int | None = None
    ) -> Page:
        """What can be installed: with every word of `search` in name, description or tags; of this tag; this gallery.

        A gallery that can't be read is left out; `problems` has it. Raises GalleryNotFound.
        """
        if gallery and gallery not in self._galleries:
            raise GalleryNotFound(f"{gallery} is not currently registered").at("gallery")
        galleries = [self._galleries[gallery]] if gallery else self.registered()
        indexes = await asyncio.gather(*(self._entries(gallery) for gallery in galleries))
        words, tag = search.casefold().split(), tag.casefold()
        found = [
            (gallery, entry)
            for gallery, entries in zip(galleries, indexes, strict=True)
            for entry in entries
            if _matches(entry, words, tag)
        ]
        page = found[offset : None if limit is None else offset + limit]
        installed = await asyncio.to_thread(records.installed_entries, self._settings.models_path)
        items = (Available(entry, gallery, installed(gallery.name, entry.name)) for gallery, entry in page)
        return Page(tuple(items), len(found))

    async def _entries(self, gallery: Gallery) -> Sequence[Entry]:
        index = self._indexes.get(gallery.name)  # it may be removed while others are read
        try:
            return await index.entries() if index else ()
        except DownloadFailed:
            return ()  # `problems` has it, and the log


def merged(galleries: Iterable[Gallery], changes: Iterable[GalleryChange]) -> list[Gallery]:
    """Those of the settings, as the API changed them, then those that the API added.

    A change holds as long as the settings give the same address for the name as when it was made.
    """
    by_name = {change.name: change for change in changes}
    result = []
    for gallery in galleries:
        change = by_name.pop(gallery.name, None)
        if change is None or change.instead_of != gallery.url:
            result.append(gallery)
        elif change.url:
            result.append(Gallery(change.name, change.url, change.allow_pickles))
        else:
            logger.info("gallery %s of the settings is left out: it was removed by the API", gallery.name)
    added = (change for change in by_name.values() if change.url)
    return result + [Gallery(change.name, change.url, change.allow_pickles) for change in added]


def _matches(entry: Entry, words: list[str], tag: str) -> bool:
    if tag and all(tag != one.casefold() for one in entry.tags):
        return False
    if not words:
        return True
    text = " ".join((entry.name, entry.description, *entry.tags)).casefold()
    return all(word in text for word in words)
