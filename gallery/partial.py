"""A file that is being fetched: its bytes, and beside it the record of which of them are there.

The bytes are written before the record that claims them, and the record is replaced as a whole: at any kill of the
process it is true. After a crash of the machine only those bytes are believed that had been forced to the disk
(`sync`); the record tells by the kernel's boot id.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MAX_BUFFERS = 1024
"""What one `pwritev` takes: IOV_MAX of Linux."""

Span = tuple[int, int]
"""From a byte up to another, exclusive."""


class Partial:
    """`path`, with its record in `<path>.json`. Methods that touch the disk block; one thread may save at a time."""

    def __init__(self, path: Path, version: str, size: int | None) -> None:
        self.path = path
        self._version = version
        self._size = size
        self._file: int | None = None
        self.done: tuple[Span, ...] = ()
        """What is there: in order, with gaps between."""
        self._synced: tuple[Span, ...] = ()
        self.unsaved = 0
        """Bytes written since the record was."""

    def open(self) -> None:
        """Go on with what is there, if it is of this version (not empty) and size; else start anew."""
        record = _read(record_path(self.path)) if self._version else None
        if record is not None and (record.version, record.size) != (self._version, self._size):
            record = None
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if record is None else 0)
        self._file = os.open(self.path, flags, 0o644)
        if record is not None:
            known = record.done if record.boot == _boot() else record.synced
            there = os.fstat(self._file).st_size
            self.done = self._synced = tuple((start, min(end, there)) for start, end in known if start < there)

    @property
    def front(self) -> int:
        """Bytes without a gap from the first one on."""
        return self.done[0][1] if self.done and self.done[0][0] == 0 else 0

    @property
    def count(self) -> int:
        """Bytes that are there."""
        return sum(end - start for start, end in self.done)

    def missing(self, start: int, end: int) -> list[Span]:
        """The gaps between `start` and `end`."""
        gaps = []
        for done_start, done_end in (*self.done, (end, end)):
            if start < min(done_start, end):
                gaps.append((start, min(done_start, end)))
            start = max(start, done_end)
        return gaps

    def write(self, blocks: Sequence[bytes], at: int) -> None:
        """Write the blocks one after another; `wrote` then says so."""
        for first in range(0, len(blocks), _MAX_BUFFERS):
            some = [memoryview(block) for block in blocks[first : first + _MAX_BUFFERS]]
            while some:
                written = os.pwritev(self._descriptor(), some, at)
                at += written
                while some and written >= len(some[0]):
                    written -= len(some.pop(0))
                if some:
                    some[0] = some[0][written:]

    def wrote(self, start: int, end: int) -> None:
        self.done = _joined((*self.done, (start, end)))
        self.unsaved += end - start

    def read(self, into: memoryview, at: int) -> int:
        """Fill the buffer from there on; returns how many bytes there were."""
        return os.preadv(self._descriptor(), [into], at)

    def clear(self) -> None:
        """Forget all."""
        os.ftruncate(self._descriptor(), 0)
        self.done = self._synced = ()

    def save(self, done: tuple[Span, ...]) -> None:
        """Replace the record; `done` is what it claims. Of a file that has no version nothing is recorded."""
        if not self._version:
            return
        record = {
            "version": self._version,
            "size": self._size,
            "boot": _boot(),
            "done": done,
            "synced": self._synced,
        }
        new = _new_record_path(self.path)
        new.write_text(json.dumps(record), encoding="utf-8")
        new.replace(record_path(self.path))

    def sync(self, done: tuple[Span, ...]) -> None:
        """Force the bytes to the disk; `done` is what was there before. May run on while the file is closed."""
        file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(file)
        finally:
            os.close(file)
        self._synced = done

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)

    def _descriptor(self) -> int:
        assert self._file is not None, "not opened"
        return self._file


def record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def remove(path: Path) -> None:
    """Remove a partial file and its record, as far as they are there."""
    for each in (path, record_path(path), _new_record_path(path)):
        each.unlink(missing_ok=True)


def _new_record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json.new")


@dataclass(frozen=True, slots=True)
class _Record:
    version: str
    size: int | None
    boot: str
    done: tuple[Span, ...]
    synced: tuple[Span, ...]


def _read(path: Path) -> _Record | None:
    """The record; None if there is none, or none that can be read: then nothing is known of the bytes."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        spans = {key: tuple((int(start), int(end)) for start, end in values[key]) for key in ("done", "synced")}
        return _Record(values["version"], values["size"], values["boot"], **spans)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _boot() -> str:
    """Changes when the machine starts again; empty where the system doesn't tell."""
    return _BOOT_ID.read_text(encoding="ascii").strip() if _BOOT_ID.exists() else ""


def _joined(spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans in order, those that touch as one."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return tuple(joined)
