"""The members of archives, written to a folder one by one: what they may be, and where they may go.

Nothing is ever a symbolic link there: the links of an archive become hard links to the files they name. So no member
can be written through another one, and what `tarfile` makes of a path or a link decides nothing.
"""

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO
from zipfile import ZipFile, ZipInfo

from deployments.errors import DownloadFailed

_BLOCK = 1 << 20
_HEADER_LIMIT = 16 * _BLOCK
_ZIP, _ZSTD = (b"PK\x03\x04", b"PK\x05\x06"), b"\x28\xb5\x2f\xfd"
_COMPRESSIONS: dict[bytes, Callable[[Path], io.BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}
"""Of tars, by the first bytes."""
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"
"""Names by which a layer of an image removes a file, and all of a folder, of the layers below (OCI image spec)."""

Allow = Callable[[PurePosixPath], None]
"""Called with the path of every member that is a file, before it is written. Raises for one that must not be."""


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """What an archive may become."""

    size: int = 1 << 40
    """Bytes of all its files."""
    files: int = 20_000
    """Members, folders included."""
    ratio: float = 200.0
    """Unpacked bytes to packed ones; from `ratio_from` unpacked bytes on, for a small text may well be this dense."""
    ratio_from: int = 64 << 20


@dataclass(slots=True)
class Tally:
    """What was unpacked so far, held against the limits."""

    limits: UnpackLimits
    packed: int
    members: int = 0
    size: int = 0

    def member(self) -> None:
        self.members += 1
        if self.members > self.limits.files:
            raise DownloadFailed(f"holds more than {self.limits.files} files")

    def written(self, size: int) -> None:
        self.size += size
        if self.size > self.limits.size:
            raise DownloadFailed(f"is larger than {self.limits.size} bytes when unpacked")
        if self.size > self.limits.ratio_from and self.size > self.limits.ratio * self.packed:
            raise DownloadFailed(f"unpacks to more than {self.limits.ratio:.0f} times its size: an archive bomb")


@dataclass(slots=True)
class Layer:
    """One archive, written to `root`, and then laid on what the ones before it left in `below`."""

    root: Path
    below: Path
    tally: Tally
    allow: Allow
    whiteouts: bool
    _links: dict[PurePosixPath, PurePosixPath] = field(default_factory=dict)
    _removed: list[PurePosixPath] = field(default_factory=list)
    _emptied: list[PurePosixPath] = field(default_factory=list)

    def write(self, archive: Path) -> None:
        self.root.mkdir()
        with archive.open("rb") as file:
            magic = file.read(6)
        if magic.startswith(_ZSTD):
            raise DownloadFailed("is packed with Zstandard, which this Python can't unpack; use gzip")
        if magic.startswith(_ZIP):
            with ZipFile(archive) as members:
                for info in members.infolist():
                    self._zipped(members, info)
        else:
            with _plain(archive, magic) as plain, tarfile.open(fileobj=_Bounded(plain), mode="r:") as members:
                for member in members:
                    self._tarred(members, member)
        for path, target in self._links.items():
            self._link(path, target)

    def merge(self) -> None:
        for path in self._emptied:
            for child in _children(self.below / path):
                _remove(child)
        for path in self._removed:
            _remove(self.below / path)
        _lay(self.root, self.below)

    def _zipped(self, members: ZipFile, info: ZipInfo) -> None:
        path = _inside(info.filename)
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0: made where files have no modes
        if info.is_dir():
            self._folder(path)
        elif kind == stat.S_IFLNK:
            with members.open(info) as source:
                self._add_link(path, path.parent, source.read(4096).decode())
        elif kind in (0, stat.S_IFREG):
            with members.open(info) as source:
                self._file(path, source)
        else:
            raise DownloadFailed(f"{info.filename}: is neither a file nor a folder")

    def _tarred(self, members: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        path = _inside(member.name)
        if member.isdir():
            self._folder(path)
        elif member.issym():
            self._add_link(path, path.parent, member.linkname)
        elif member.islnk():
            self._add_link(path, PurePosixPath(), member.linkname)
        elif member.isreg() and (source := members.extractfile(member)) is not None:
            with source:
                self._file(path, source)
        else:
            raise DownloadFailed(f"{member.name}: is neither a file nor a folder")

    def _folder(self, path: PurePosixPath) -> None:
        self.tally.member()
        (self.root / path).mkdir(parents=True, exist_ok=True)

    def _file(self, path: PurePosixPath, source: IO[bytes]) -> None:
        self.tally.member()
        if self.whiteouts and path.name == _OPAQUE:
            self._emptied.append(path.parent)
            return
        if self.whiteouts and path.name.startswith(_WHITEOUT):
            name = path.name.removeprefix(_WHITEOUT)
            if name in ("", ".", ".."):
                raise DownloadFailed(f"{path}: leads out of the folder")
            self._removed.append(path.parent / name)
            return
        if path == PurePosixPath():
            raise DownloadFailed("a file without a name")
        self.allow(path)
        self._links.pop(path, None)
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # the last of several members of one path counts
        with target.open("xb") as file:
            while block := source.read(_BLOCK):
                self.tally.written(len(block))
                file.write(block)

    def _add_link(self, path: PurePosixPath, base: PurePosixPath, target: str) -> None:
        self.tally.member()
        if target.startswith("/"):
            raise DownloadFailed(f"{path}: links to {target}, outside of the archive")
        self.allow(path)
        self._links[path] = _inside(os.path.normpath(base / target), shown=f"{path}: links to {target}")

    def _link(self, path: PurePosixPath, target: PurePosixPath) -> None:
        """A hard link to the file at the end of a chain of links."""
        seen = {path}
        while target in self._links:
            if target in seen:
                raise DownloadFailed(f"{path}: links to itself")
            seen.add(target)
            target = self._links[target]
        sources = [place for tree in (self.root, self.below) if (place := tree / target).is_file()]
        if not sources:
            raise DownloadFailed(f"{path}: links to {target}, which is no file of the archive")
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).unlink(missing_ok=True)
        os.link(sources[0], self.root / path)


def _plain(tar: Path, magic: bytes) -> io.BufferedIOBase:
    """The tar, decompressed as it is read."""
    opened = next((opened for start, opened in _COMPRESSIONS.items() if magic.startswith(start)), None)
    return opened(tar) if opened else tar.open("rb")


class _Bounded(io.RawIOBase):
    """A tar's bytes for `tarfile`, which reads a header of any size at once: one of gigabytes would fill the memory."""

    def __init__(self, plain: io.BufferedIOBase) -> None:
        self._plain = plain

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _HEADER_LIMIT:
            raise DownloadFailed(f"a header of {size} bytes: an archive bomb")
        return self._plain.read(size)

    def seek(self, place: int, whence: int = os.SEEK_SET) -> int:
        return self._plain.seek(place, whence)

    def tell(self) -> int:
        return self._plain.tell()


def _inside(name: str, shown: str = "") -> PurePosixPath:
    """A member's path, relative and without `..`."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or "\\" in name:
        raise DownloadFailed(f"{shown or name}: leads out of the folder")
    return path


def _lay(upper: Path, lower: Path) -> None:
    """Move the tree `upper` onto `lower`. A file takes a folder's place and the other way round."""
    for path in _children(upper):
        target = lower / path.name
        if path.is_dir() and target.is_dir():
            _lay(path, target)
            continue
        _remove(target)
        path.replace(target)


def _children(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
