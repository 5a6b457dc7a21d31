"""The gallery's tables: jobs, and what was changed about the galleries. Blocks; asynchronous callers use threads."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import JSON, BigInteger, Double, Text, delete, select, update
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from gallery.database import Database
from gallery.status import JobStatus, Phase


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job as it is stored."""

    number: int
    """Grows with every submission."""
    kind: str
    request: dict[str, Any]
    plan: dict[str, Any] | None
    """What the job's work made of the request, so that nothing is looked up again; None when it has ended."""
    cancelled: bool
    """It was asked to end; the phase says whether it has."""
    status: JobStatus


@dataclass(frozen=True, slots=True)
class GalleryChange:
    """What the API did about the gallery of a name: added it, gave it another address, or removed it."""

    name: str
    url: str
    """Empty: removed."""
    allow_pickles: bool = False
    instead_of: str = ""
    """Address that the settings gave for this name at that time. Empty: none."""


class _Table(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012  # SQLAlchemy's name and form
        dict[str, Any]: JSON(none_as_null=True),
        list[str]: JSON,
        str: Text,
        float: Double,
    }


class _Job(_Table):
    __tablename__ = "jobs"

    number: Mapped[int] = mapped_column(primary_key=True)
    uuid: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    request: Mapped[dict[str, Any]]
    plan: Mapped[dict[str, Any] | None]
    cancelled: Mapped[bool] = mapped_column(default=False)
    phase: Mapped[str]
    model: Mapped[str]
    deletion: Mapped[bool]
    error: Mapped[str]
    warnings: Mapped[list[str]]
    file_name: Mapped[str]
    current_bytes: Mapped[int] = mapped_column(BigInteger)
    total_bytes: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[float]
    updated: Mapped[float]


class _Gallery(_Table):
    __tablename__ = "galleries"

    number: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    url: Mapped[str]
    allow_pickles: Mapped[bool]
    instead_of: Mapped[str]


class GalleryStore:
    """Every method is one transaction, and raises NotReady when the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self) -> None:
        """Create the tables. Raises ConfigInvalid too."""
        self._database.create_tables(_Table.metadata)

    def close(self) -> None:
        self._database.close()

    # ---- jobs ----

    def add_job(self, kind: str, request: dict[str, Any], status: JobStatus) -> JobRecord:
        with self._database.transaction() as session:
            row = _Job(kind=kind, request=request, uuid=status.uuid, created=status.created, **_columns(status))
            session.add(row)
            session.flush()
            return _record(row)

    def jobs(self) -> list[JobRecord]:
        """All of them, in order of submission."""
        with self._database.transaction() as session:
            return [_record(row) for row in session.scalars(select(_Job).order_by(_Job.number))]

    def set_plan(self, uuid: str, plan: dict[str, Any]) -> None:
        with self._database.transaction() as session:
            session.execute(update(_Job).where(_Job.uuid == uuid).values(plan=plan))

    def set_cancelled(self, uuid: str) -> None:
        with self._database.transaction() as session:
            session.execute(update(_Job).where(_Job.uuid == uuid).values(cancelled=True))

    def set_statuses(self, statuses: Iterable[JobStatus]) -> None:
        """Store how jobs are doing. One that has ended needs no plan any more."""
        with self._database.transaction() as session:
            for status in statuses:
                columns = _columns(status) | ({"plan": None} if status.phase.final else {})
                session.execute(update(_Job).where(_Job.uuid == status.uuid).values(columns))

    def forget_jobs(self, uuids: Iterable[str]) -> None:
        with self._database.transaction() as session:
            session.execute(delete(_Job).where(_Job.uuid.in_(list(uuids))))

    # ---- galleries ----

    def gallery_changes(self) -> list[GalleryChange]:
        """In the order in which they were made."""
        with self._database.transaction() as session:
            rows = session.scalars(select(_Gallery).order_by(_Gallery.number))
            return [GalleryChange(row.name, row.url, row.allow_pickles, row.instead_of) for row in rows]

    def set_gallery_change(self, change: GalleryChange) -> None:
        """Store it in place of what was stored for this name."""
        with self._database.transaction() as session:
            session.execute(delete(_Gallery).where(_Gallery.name == change.name))
            session.add(
                _Gallery(
                    name=change.name,
                    url=change.url,
                    allow_pickles=change.allow_pickles,
                    instead_of=change.instead_of,
                )
            )

    def forget_gallery_change(self, name: str) -> None:
        with self._database.transaction() as session:
            session.execute(delete(_Gallery).where(_Gallery.name == name))


def _columns(status: JobStatus) -> dict[str, Any]:
    """What may change of a status. NUL, which PostgreSQL's texts can't hold, is left out."""
    return {
        "phase": status.phase.value,
        "model": status.model.replace("\0", ""),
        "deletion": status.deletion,
        "error": status.error.replace("\0", ""),
        "warnings": list(status.warnings),
        "file_name": status.file_name.replace("\0", ""),
        "current_bytes": status.current_bytes,
        "total_bytes": status.total_bytes,
        "updated": status.updated,
    }


def _record(row: _Job) -> JobRecord:
    status = JobStatus(
        uuid=row.uuid,
        phase=Phase(row.phase),
        model=row.model,
        deletion=row.deletion,
        error=row.error,
        warnings=tuple(row.warnings),
        file_name=row.file_name,
        current_bytes=row.current_bytes,
        total_bytes=row.total_bytes,
        created=row.created,
        updated=row.updated,
    )
    return JobRecord(row.number, row.kind, row.request, row.plan, row.cancelled, status)
