"""Where model files come from: one class per URI scheme, in one table."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self, TypeVar

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Interrupted
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.base import Content, Listed, Listing, Source, Whole
from gallery.sources.file import File
from gallery.sources.github import GitHub
from gallery.sources.http import HTTP
from gallery.sources.huggingface import HuggingFace
from gallery.sources.oci import OCI, Ollama
from gallery.sources.pypi import PyPI
from gallery.sources.s3 import S3
from gallery.sources.uri import Address, local_name

__all__ = ["SOURCES", "Sources", "local_name"]

SOURCES: dict[str, Callable[[Network, DownloadSettings], Source]] = {
    "https": lambda network, settings: HTTP(network),
    "http": lambda network, settings: HTTP(network),
    "file": lambda network, settings: File(settings),
    "huggingface": HuggingFace,
    "github": GitHub,
    "oci": OCI,
    "ollama": Ollama,
    "s3": lambda network, settings: S3(settings),
    "pypi": lambda network, settings: PyPI(settings),
}
"""THE table. `gallery/sources/uri.py` brings other spellings, such as `hf://`, into these."""

TRIES = 3
"""Of a text or a listing; large files have `DownloadSettings.retries`."""

LONGEST_WAIT_S = 10.0
"""Between two tries, whatever the server asks for: somebody may be waiting for the answer."""

T = TypeVar("T")


class Sources:
    """All sources, for as long as the block lasts: `async with Sources(settings) as sources`."""

    def __init__(self, settings: DownloadSettings) -> None:
        self._settings = settings
        self._allowed = {"huggingface" if scheme == "hf" else scheme for scheme in settings.schemes}
        self._sources: dict[str, Source] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            network = await stack.enter_async_context(Network(self._settings))
            self._sources = {scheme: make(network, self._settings) for scheme, make in SOURCES.items()}
            for source in self._sources.values():
                if isinstance(source, AbstractAsyncContextManager):  # those that hold threads or connections
                    await stack.enter_async_context(source)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def locate(self, uri: str) -> Content:
        """Look the file up. Raises as `Source.locate`; ConfigInvalid too for a scheme unknown or not allowed."""
        address, source = self._source(uri)
        return await source.locate(address.uri)

    async def text(self, uri: str, limit: int = 64 << 20) -> str:
        """A small file, such as an index, as text.

        Raises as `locate`, Interrupted when no try went well, and DownloadFailed when it is over `limit` bytes or
        isn't UTF-8.
        """

        async def read() -> bytes:
            content = await self.locate(uri)
            if not isinstance(content, Whole):
                raise ConfigInvalid(f"{uri}: is in an archive; a text is read from a file of its own")
            blocks = bytearray()
            blocks_of = content.remote.read(0, None)
            try:
                async for block in blocks_of:
                    blocks += block
                    if len(blocks) > limit:
                        raise DownloadFailed(f"{uri}: larger than {limit >> 20} MiB; that is no index and no config")
            finally:
                await blocks_of.aclose()
            if content.remote.size is not None and len(blocks) != content.remote.size:
                raise Interrupted(f"{uri}: broke off after {len(blocks)} of {content.remote.size} bytes")
            return bytes(blocks)

        content = await self._tried(read)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DownloadFailed(f"{uri}: is not UTF-8 text: {error.reason} at byte {error.start}") from error

    async def listing(self, uri: str) -> list[Listed]:
        """The files under `uri`, a Hugging Face repository or a folder in one. Raises as `text`."""
        address, source = self._source(uri)
        if not isinstance(source, Listing):
            able = [scheme for scheme, source in self._sources.items() if isinstance(source, Listing)]
            raise ConfigInvalid(f"{uri}: {address.scheme}:// names single files; folders: {', '.join(able)}://")
        return await self._tried(lambda: source.listing(address.uri))

    local_name = staticmethod(local_name)

    def _source(self, uri: str) -> tuple[Address, Source]:
        address = Address.parse(uri)
        if address.scheme not in SOURCES:
            known = ", ".join(f"{scheme}://" for scheme in SOURCES)
            raise ConfigInvalid(f"{uri}: no source for {address.scheme}://; known are {known}")
        if self._allowed.isdisjoint({address.scheme, address.written}):
            raise ConfigInvalid(
                f"{uri}: {address.scheme}:// is not allowed; the setting download_schemes lists what is"
            )
        return address, self._sources[address.scheme]

    async def _tried(self, work: Callable[[], Awaitable[T]]) -> T:
        for attempt in range(TRIES - 1):
            try:
                return await work()
            except Interrupted as error:
                await asyncio.sleep(min(error.retry_after or self._settings.backoff * 2**attempt, LONGEST_WAIT_S))
        return await work()
