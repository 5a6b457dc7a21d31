"""Archives: one member taken out of a zip, or all of one unpacked, and nothing outside the folder it is unpacked into.

Blocking. An archive is written to a hidden folder first and moved in at the end: one that is refused leaves nothing.
"""

import contextlib
import difflib
import errno
import hashlib
import lzma
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile

from deployments.errors import DownloadFailed, InsufficientStorage
from gallery.unpacking import Allow, Layer, Tally, UnpackLimits

__all__ = ["SUFFIXES", "UnpackLimits", "extract_member", "is_archive", "unpack", "unpack_layers"]

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst")
"""Names of archives. The last two are known to be refused: this Python's standard library can't read Zstandard."""

_BLOCK = 1 << 20


def is_archive(name: str) -> bool:
    """Whether a file of this name is one that is unpacked."""
    return name.lower().endswith(SUFFIXES)


def extract_member(archive: Path, path: str, to: Path, report: Callable[[int, int], None]) -> str:
    """Write the member `path` of a zip to `to`, and return its sha256.

    `report` is called with the bytes so far and in all; it may raise to stop. Raises DownloadFailed when there is no
    such member (the message lists those with like names), or the archive is damaged.
    """
    digest = hashlib.sha256()
    with _translated(archive.name), ZipFile(archive) as members:
        if path not in members.NameToInfo:
            raise DownloadFailed(f"holds no {path}{_hint(path, members.namelist())}")
        info = members.getinfo(path)
        done = 0
        with members.open(info) as source, to.open("wb") as target:
            while block := source.read(_BLOCK):
                target.write(block)
                digest.update(block)
                report(done := done + len(block), info.file_size)
    return digest.hexdigest()


def unpack(archive: Path, folder: Path, limits: UnpackLimits, *, allow: Allow) -> list[PurePosixPath]:
    """Unpack a zip or a tar (plain, gzip, bzip2, xz) into `folder`, which exists, and return its files' paths there.

    All of it or nothing: the files are moved in at the end, over files of the same paths. Raises DownloadFailed for
    an archive that is damaged, over a limit, or has a path or a link that leads outside or a device; and what `allow`
    raises.
    """
    return _unpack([archive], folder, limits, allow, whiteouts=False)


def unpack_layers(layers: Sequence[Path], folder: Path, limits: UnpackLimits, *, allow: Allow) -> list[PurePosixPath]:
    """Unpack the layers of an OCI image, the lowest first, as `unpack`: a later one replaces and removes files."""
    return _unpack(layers, folder, limits, allow, whiteouts=True)


def _unpack(
    archives: Sequence[Path], folder: Path, limits: UnpackLimits, allow: Allow, *, whiteouts: bool
) -> list[PurePosixPath]:
    staging = folder / f".{archives[0].name.lstrip('.')}.unpacking"
    shutil.rmtree(staging, ignore_errors=True)  # of an earlier try that was killed
    merged = staging / "merged"
    tally = Tally(limits, sum(archive.stat().st_size for archive in archives))
    try:
        merged.mkdir(parents=True)
        for number, archive in enumerate(archives):
            with _translated(archive.name):
                layer = Layer(staging / str(number), merged, tally, allow, whiteouts=whiteouts)
                layer.write(archive)
                layer.merge()
        return _move_in(merged, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _move_in(tree: Path, folder: Path) -> list[PurePosixPath]:
    """Move all files of `tree` to the same paths under `folder`. Those already moved go when one can't be."""
    root = folder.resolve()
    paths = sorted(PurePosixPath(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file())
    for path in paths:  # all, before the first is moved
        if not (folder / path).parent.resolve().is_relative_to(root) or (folder / path).is_dir():
            raise DownloadFailed(f"{path}: is in the way of what is in {folder.name} already, or leads out of it")
    moved: list[Path] = []
    try:
        for path in paths:
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            (tree / path).replace(target)
            moved.append(target)
    except OSError as error:
        for target in moved:
            target.unlink()
        raise DownloadFailed(f"{path}: could not be moved to {folder.name}: {error.strerror}") from error
    return paths


def _hint(path: str, names: list[str]) -> str:
    """Members that may be meant."""
    same_name = [name for name in names if PurePosixPath(name).name == PurePosixPath(path).name]
    close = same_name or difflib.get_close_matches(path, names, n=3, cutoff=0.4)
    return f"; it holds {', '.join(close[:3])}" if close else ""


@contextlib.contextmanager
def _translated(name: str) -> Iterator[None]:
    """Say which archive is at fault, and for what."""
    try:
        yield
    except DownloadFailed as error:
        raise DownloadFailed(f"{name}: {error.message}") from error
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise DownloadFailed(f"{name}: has a path twice, as a file and as a folder") from error
    except (BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise DownloadFailed(f"{name}: damaged, or no archive: {error}") from error
    except RuntimeError as error:  # zipfile: a way of packing that it doesn't know; a password
        raise DownloadFailed(f"{name}: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InsufficientStorage(f"{name}: no room to unpack it") from error
        # gzip and bz2 raise OSError for damaged data, without a number; a path of the archive may be too long
        raise DownloadFailed(f"{name}: {error.strerror or error}") from error
