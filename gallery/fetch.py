"""One file of a plan, from wherever its bytes are to a hidden file: whole, in parts, or out of an archive."""

import asyncio
import hashlib
import shutil
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

from deployments.errors import ConfigInvalid, DownloadFailed
from deployments.side_by_side import side_by_side
from gallery.archive import UnpackLimits, extract_member, is_archive, unpack, unpack_layers
from gallery.download import Report, discard, download
from gallery.partial import remove
from gallery.paths import hidden
from gallery.request import File
from gallery.settings import DownloadSettings
from gallery.sources.base import Content, Interrupted, Layers, Member, Remote, Whole
from gallery.space import Space
from gallery.threads import in_thread

_BLOCK = 4 << 20

Result = TypeVar("Result")


class Locator(Protocol):
    """The part of `gallery.sources.Sources` that finds files."""

    async def locate(self, uri: str) -> Content: ...


@dataclass(frozen=True, slots=True)
class Located:
    """A file, and where its bytes are: one content, or one for each of its parts."""

    file: File
    contents: tuple[Content, ...]

    @property
    def folder(self) -> str | None:
        """The folder that it is unpacked into, relative to the models directory; None: it is a file as it is.

        An archive's is the one it would lie in itself, as in LocalAI; `name/` and an image's are their own.
        """
        name = self.file.filename
        if name.endswith("/") or isinstance(self.contents[0], Layers):
            return name.rstrip("/")
        if is_archive(name):
            return str(PurePosixPath(name).parent)
        return None

    def remotes(self) -> list[tuple[str, Remote]]:
        """What is fetched for it, with a key that is equal for the same archive."""
        found: list[tuple[str, Remote]] = []
        for number, content in enumerate(self.contents):
            match content:
                case Whole(remote):
                    found.append((f"{self.file.filename} {number}", remote))
                case Member(remote, archive_id, _):
                    found.append((archive_id, remote))
                case Layers(remotes):
                    found += [(f"{self.file.filename} {layer}", remote) for layer, remote in enumerate(remotes)]
        return found


async def locate(file: File, sources: Locator, settings: DownloadSettings) -> Located:
    """Look the file's bytes up. Raises as `Source.locate`, Interrupted when no try went well."""

    async def content(uri: str) -> Content:
        return await tried(lambda: sources.locate(uri), settings)

    return Located(file, tuple(await side_by_side(content, file.parts or (file.uri,))))


async def tried(work: Callable[[], Awaitable[Result]], settings: DownloadSettings) -> Result:
    """The result of `work`, done again when it was interrupted, in as many tries as the settings allow."""
    for attempt in range(max(0, settings.retries - 1)):
        try:
            return await work()
        except Interrupted as error:
            await asyncio.sleep(min(60.0, error.retry_after or settings.backoff * 2**attempt))
    return await work()


class Fetcher:
    """The downloads of one installation. An archive that several of its files are in is fetched once.

    Everything is written to hidden files, which a later try goes on with.
    """

    def __init__(
        self,
        models_path: Path,
        name: str,
        settings: DownloadSettings,
        space: Space,
        report: Callable[[str, int, int], None],
    ) -> None:
        """`report` is told a file's name, its bytes so far, and its bytes in all."""
        self._models_path = models_path
        self._prefix = f"._fetch_{_short(name)}_"
        self._settings = settings
        self._space = space
        self._report = report
        self._reports: dict[str, Report] = {}
        self._fetching: dict[str, asyncio.Lock] = {}
        self._fetched: set[str] = set()

    def expect(self, located: Sequence[Located]) -> dict[str, int]:
        """Bytes of each file that is going to be fetched; those of an archive are its first file's. 0: unknown."""
        sizes: dict[str, int] = {}
        for one in located:
            own = [(key, remote) for key, remote in one.remotes() if key not in self._reports]
            if not own:
                continue
            progress = _Sum([remote.size or 0 for _, remote in own], one.file.filename, self._report)
            self._reports |= {key: progress.of(number) for number, (key, _) in enumerate(own)}
            sizes[one.file.filename] = 0 if any(remote.size is None for _, remote in own) else progress.total
        return sizes

    def present(self, located: Sequence[Located]) -> int:
        """Bytes of them that an earlier try left on the disk. Blocks."""
        return sum(
            path.stat().st_blocks * 512
            for one in located
            for path in (*self._paths(one.file), *(self.scratch("archive", key) for key, _ in one.remotes()))
            if path.exists()
        )

    async def file(self, located: Located, to: Path) -> str:
        """Fetch into `to`, and return its sha256.

        Raises DownloadFailed, with nothing left of it, when a source vouches for another sum than came.
        """
        keys = [key for key, _ in located.remotes()]
        if len(located.contents) == 1:
            return await self._piece(located.contents[0], keys[0], to)
        pieces = [_piece_path(to, number) for number in range(len(located.contents))]
        await side_by_side(lambda each: self._piece(*each), zip(located.contents, keys, pieces, strict=True))
        return await in_thread(_join, pieces, to)

    async def folder(self, located: Located) -> Path:
        """Fetch an archive or an image, and return the hidden folder that it was unpacked into.

        Raises DownloadFailed too when the archive's sha256 is not the gallery's.
        """
        file, content = located.file, located.contents[0]
        folder = self.scratch("unpacked", file.filename)
        await in_thread(_make_empty, folder)
        limits = UnpackLimits(size=self._settings.limit or UnpackLimits().size)
        if isinstance(content, Layers):
            layers = [await self._archive(key, remote) for key, remote in located.remotes()]
            await in_thread(unpack_layers, layers, folder, limits, allow=_any_path)
            return folder
        archive = self.scratch("archive", f"{file.filename} 0")
        found = await self._piece(content, located.remotes()[0][0], archive)
        await require_sum(file, found, archive)
        await in_thread(unpack, archive, folder, limits, allow=_any_path)
        return folder

    def scratch(self, kind: str, key: str) -> Path:
        """A hidden file or folder of this installation, which `clear` removes."""
        return self._models_path / f"{self._prefix}{kind}_{_short(key)}"

    def clear(self) -> None:
        """Remove the archives, and everything that is not in its place. Blocks."""
        for path in self._models_path.glob(f"{self._prefix}*"):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def clear_file(self, file: File) -> None:
        """Remove what was fetched of the file and is not in its place. Blocks."""
        for path in self._paths(file):
            remove(path)

    def _paths(self, file: File) -> list[Path]:
        partial = partial_path(self._models_path, file)
        return [partial, *(_piece_path(partial, number) for number in range(len(file.parts)))]

    async def _piece(self, content: Content, key: str, to: Path) -> str:
        match content:
            case Whole(remote):
                return await self._download(key, remote, to)
            case Member(remote, archive_id, path):
                archive = await self._archive(archive_id, remote)
                return await in_thread(extract_member, archive, path, to, _nobody)
            case Layers():
                raise ConfigInvalid("an image of several layers is a folder and can't be a part of a file")

    async def _archive(self, key: str, remote: Remote) -> Path:
        """The archive, a hidden file, fetched if it wasn't yet."""
        path = self.scratch("archive", key)
        async with self._fetching.setdefault(key, asyncio.Lock()):
            if key not in self._fetched:
                await self._download(key, remote, path)
                self._fetched.add(key)
        return path

    async def _download(self, key: str, remote: Remote, to: Path) -> str:
        found = await download(remote, to, self._settings, report=self._reports[key], space=self._space)
        if remote.sha256 and found != remote.sha256.lower():
            await discard(to)
            raise DownloadFailed(f"{key}: sha256 is {found}, its source says {remote.sha256}")
        return found


class _Sum:
    """Several downloads, reported as those of one file."""

    def __init__(self, sizes: Sequence[int], filename: str, report: Callable[[str, int, int], None]) -> None:
        self._done = [0] * len(sizes)
        self._sizes = list(sizes)
        self._filename = filename
        self._report = report

    @property
    def total(self) -> int:
        return sum(self._sizes)

    def of(self, number: int) -> Report:
        def report(done: int, size: int) -> None:
            self._done[number] = done
            self._sizes[number] = size
            self._report(self._filename, sum(self._done), self.total if all(self._sizes) else 0)

        return report


def partial_path(models_path: Path, file: File) -> Path:
    """Where the file is while it is being fetched."""
    return hidden(models_path / file.filename, ".partial")


async def require_sum(file: File, found: str, path: Path) -> None:
    """Raise DownloadFailed, with `path` removed, when the file is not the one that its gallery means."""
    if file.sha256 and found != file.sha256.lower():
        await discard(path)
        raise DownloadFailed(f"{file.filename}: sha256 is {found}, the gallery says {file.sha256.lower()}")


def _piece_path(partial: Path, number: int) -> Path:
    return partial.with_name(f"{partial.name}.{number}")


def _join(pieces: Sequence[Path], to: Path) -> str:
    """Write the pieces one after another; the sha256 of the whole."""
    digest = hashlib.sha256()
    with to.open("wb") as whole:
        for piece in pieces:
            with piece.open("rb") as source:
                while block := source.read(_BLOCK):
                    digest.update(block)
                    whole.write(block)
    return digest.hexdigest()


def _make_empty(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _nobody(done: int, total: int) -> None:
    """Unpacking is quick beside fetching."""


def _any_path(path: PurePosixPath) -> None:
    """What may be installed of it is decided when all of it is there."""
