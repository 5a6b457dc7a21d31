"""The server's database, SQLite or PostgreSQL, through SQLAlchemy: connections and transactions, no tables."""

import sqlite3
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, MetaData, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, InterfaceError, OperationalError
from sqlalchemy.orm import Session

from deployments.errors import ConfigInvalid, NotReady

_EXPECTED = "expected sqlite:////path/to/manta.db or postgresql+psycopg://user:password@host/database"
_DRIVERS = {
    "sqlite": "sqlite+pysqlite",
    "sqlite+pysqlite": "sqlite+pysqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""What a URL may begin with → dialect and driver."""
_BUSY_S = 30.0
"""How long to wait for another process's transaction."""
_BUSY_POLL_S = 0.05
_CONNECT_ARGS: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": _BUSY_S},  # SQLite's busy_timeout
    "postgresql": {"connect_timeout": 10},
}
_LOCKS = {"sqlite": "BEGIN IMMEDIATE", "postgresql": "SELECT pg_advisory_xact_lock(7240921)"}
"""What lets one process at a time create tables, until its transaction ends. The number means nothing but ours."""


class Database:
    """The database of the setting `database_url`. Blocks; safe between threads."""

    def __init__(self, url: str) -> None:
        """Connects to nothing yet. Raises ConfigInvalid for a URL that can't be one."""
        self._url = _parsed(url)
        self._dialect = self._url.get_backend_name()
        self._engine = create_engine(self._url, connect_args=_CONNECT_ARGS[self._dialect], pool_pre_ping=True)
        if self._dialect == "sqlite":
            event.listen(self._engine, "connect", _enforce_foreign_keys)

    def create_tables(self, tables: MetaData) -> None:
        """Create those that aren't there; several processes may do so at once.

        Raises ConfigInvalid when the file can't be a database, NotReady when the server doesn't let us in.
        """
        if self._dialect == "sqlite":
            self._prepare_file(Path(self._url.database or ""))
        with self._translated(), self._engine.begin() as connection:
            connection.exec_driver_sql(_LOCKS[self._dialect])
            tables.create_all(connection)

    @contextmanager
    def transaction(self) -> Generator[Session, None, None]:
        """Committed at the end of the block, rolled back when it raises. Raises NotReady."""
        with self._translated(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        self._engine.dispose()

    def _prepare_file(self, path: Path) -> None:
        """Make its folder, and turn write-ahead logging on, which the file keeps: readers don't wait for a writer."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            deadline = time.monotonic() + _BUSY_S
            while not self._turned_to_wal():
                if time.monotonic() > deadline:
                    raise ConfigInvalid(f"database_url: {path} was locked by another process for {_BUSY_S:.0f} s")
                time.sleep(_BUSY_POLL_S)
        except OSError as error:
            raise ConfigInvalid(f"database_url: {error.filename}: {error.strerror}") from error
        except DatabaseError as error:
            raise ConfigInvalid(f"database_url: {path} can't be used as an SQLite database: {error.orig}") from error

    def _turned_to_wal(self) -> bool:
        """False while another process holds the file: this pragma, unlike others, may not wait for it.

        SQLite leaves the busy handler out where waiting could be a deadlock (sqlite3_busy_handler's documentation).
        """
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
        except OperationalError as error:
            if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_BUSY:
                raise
            return False
        return True

    @contextmanager
    def _translated(self) -> Generator[None, None, None]:
        try:
            yield
        except (OperationalError, InterfaceError) as error:
            shown = self._url.set(query={}).render_as_string(hide_password=True)
            reason = " ".join(str(error.orig).split())
            raise NotReady(f"{shown}, the database of the setting database_url, can't be used: {reason}") from error


def _parsed(text: str) -> URL:
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):  # whose text may hold the password
        raise ConfigInvalid(f"database_url: not the URL of a database; {_EXPECTED}") from None
    if url.drivername not in _DRIVERS:
        raise ConfigInvalid(f"database_url: {url.drivername!r} is not supported; {_EXPECTED}")
    url = url.set(drivername=_DRIVERS[url.drivername])
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigInvalid(f"database_url: names no file, so every restart would lose all; {_EXPECTED}")
    return url


def _enforce_foreign_keys(connection: Any, _: Any) -> None:
    """SQLite checks them only where a connection asks for it."""
    connection.execute("PRAGMA foreign_keys = ON")
