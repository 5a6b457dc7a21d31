"""Locks on names in a models directory: between the jobs of one process, and between processes."""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_FOLDER = ".locks"
_POLL_S = 0.1


@asynccontextmanager
async def locked(models_path: Path, name: str) -> AsyncIterator[None]:
    """Hold the lock on `name`, waiting for it as long as it takes. A process that dies lets go of its locks."""
    while (lock := _taken(models_path, name)) is None:
        await asyncio.sleep(_POLL_S)  # a thread that waits in flock() could not be cancelled
    try:
        yield
    finally:
        _let_go(models_path, name, lock)


@asynccontextmanager
async def locked_if_free(models_path: Path, name: str) -> AsyncIterator[bool]:
    """Hold the lock on `name` if nobody else does; whether it is held."""
    lock = _taken(models_path, name)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            _let_go(models_path, name, lock)


def _path(models_path: Path, name: str) -> Path:
    return models_path / _FOLDER / hashlib.sha256(name.encode()).hexdigest()[:32]


def _taken(models_path: Path, name: str) -> int | None:
    """The open lock file, or None when another holds it."""
    path = _path(models_path, name)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:  # the folder went, with the last lock in it
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it before may have removed the file in between: then this is a lock on nothing.
            if path.exists() and os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:  # removed between the last two looks
            pass
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)


def _let_go(models_path: Path, name: str, lock: int) -> None:
    path = _path(models_path, name)
    path.unlink(missing_ok=True)  # while it is held: nobody else's can be under this name
    os.close(lock)
    with suppress(OSError):  # others are held
        path.parent.rmdir()
