"""The API's tables: uploaded files, assistants with the files attached to them, vector stores, quotas of API keys."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import JSON, BigInteger, Double, ForeignKey, Index, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from gallery.database import Database
from gallery.threads import in_thread

T = TypeVar("T")


class _Table(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's name and form
        dict[str, Any]: JSON,
        str: Text,
        float: Double,
    }


class FileRow(_Table):
    __tablename__ = "files"

    id: Mapped[str] = mapped_column(primary_key=True)
    """Also the name of the blob that holds the content."""
    filename: Mapped[str] = mapped_column(unique=True)
    purpose: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)


class LooseBlobRow(_Table):
    """A blob that no file has: not yet, for it is being uploaded, or no longer, for it is being deleted."""

    __tablename__ = "loose_blobs"

    name: Mapped[str] = mapped_column(primary_key=True)
    since: Mapped[float]
    """Unix seconds."""
    doomed: Mapped[bool] = mapped_column(default=False)
    """It is being removed: no file may have it any more."""


class AssistantRow(_Table):
    __tablename__ = "assistants"
    __table_args__ = {"sqlite_autoincrement": True}  # noqa: RUF012  # or the number of the last one would come again

    number: Mapped[int] = mapped_column(primary_key=True)
    created: Mapped[int] = mapped_column(BigInteger)
    """Unix seconds."""
    fields: Mapped[dict[str, Any]]
    """What the client says of it, but for its files."""
    files: Mapped[list["AttachedFileRow"]] = relationship(
        order_by="AttachedFileRow.number", lazy="selectin", cascade="all, delete-orphan", passive_deletes=True
    )


class AttachedFileRow(_Table):
    __tablename__ = "assistant_files"

    number: Mapped[int] = mapped_column(primary_key=True)
    """Grows: the order in which they were attached."""
    assistant: Mapped[int] = mapped_column(ForeignKey(AssistantRow.number, ondelete="CASCADE"), index=True)
    file: Mapped[str] = mapped_column(ForeignKey(FileRow.id, ondelete="CASCADE"), index=True)
    created: Mapped[int] = mapped_column(BigInteger)


class StoreRow(_Table):
    __tablename__ = "stores"

    name: Mapped[str] = mapped_column(primary_key=True)
    change: Mapped[int] = mapped_column(BigInteger)
    """Number of the last change."""
    dimension: Mapped[int]
    """Numbers in each key; 0: there are no keys."""


class StoreEntryRow(_Table):
    __tablename__ = "store_entries"

    store: Mapped[str] = mapped_column(ForeignKey(StoreRow.name), primary_key=True)
    digest: Mapped[bytes] = mapped_column(primary_key=True)
    """SHA-256 of the key: an index takes no long ones."""
    key: Mapped[bytes | None]
    """Little-endian float32. None: deleted, and kept for a while so that others learn of it."""
    value: Mapped[bytes | None]
    """UTF-8. Not text: PostgreSQL's can't hold every character."""
    change: Mapped[int] = mapped_column(BigInteger)
    """The store's change that last wrote this."""

    __table_args__ = (Index("store_changes", store, change),)


class QuotaRow(_Table):
    """The last minute of one resource of an API key's quota."""

    __tablename__ = "quotas"

    key: Mapped[str] = mapped_column(primary_key=True)
    """The key's tenant."""
    resource: Mapped[str] = mapped_column(primary_key=True)
    sums: Mapped[dict[str, Any]]
    """Unix time in seconds → what was lent then."""


class Records:
    """Transactions on these tables, which are made when they are first needed: several processes may be at it."""

    def __init__(self, database_url: str) -> None:
        """Opens nothing. Raises ConfigInvalid for a URL that can't be one."""
        self._database = Database(database_url)
        self._opening = threading.Lock()
        self._open = False

    async def run(self, work: Callable[[Session], T]) -> T:
        """The result of `work`, done in one transaction, in a thread. Raises NotReady."""
        return await in_thread(self._run, work)

    def close(self) -> None:
        self._database.close()

    def _run(self, work: Callable[[Session], T]) -> T:
        with self._opening:
            if not self._open:
                self._database.create_tables(_Table.metadata)
                self._open = True
        with self._database.transaction() as session:
            return work(session)
