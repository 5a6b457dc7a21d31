"""What processes have counted, in the database, for the next controller."""

from collections.abc import Iterable

import orjson
from sqlalchemy import BigInteger, Text, delete, select
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from deployments.samples import Samples, Snapshot
from gallery.database import Database


class _Table(DeclarativeBase):
    type_annotation_map = {str: Text}  # noqa: RUF012  # SQLAlchemy's name and form


class _Counts(_Table):
    __tablename__ = "metric_counts"

    source: Mapped[str] = mapped_column(primary_key=True)
    """The process."""
    number: Mapped[int] = mapped_column(BigInteger)
    """Of its snapshot."""
    samples: Mapped[str]
    """JSON: rows of a name, pairs of a label and its value, and the sample's value."""


class MetricsStore:
    """Blocks. Every method raises NotReady when the database can't be used."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def load(self) -> list[Snapshot]:
        """Creates the table where there is none. Raises ConfigInvalid too."""
        self._database.create_tables(_Table.metadata)
        with self._database.transaction() as session:
            return [Snapshot(row.source, row.number, _samples(row.samples)) for row in session.scalars(select(_Counts))]

    def save(self, snapshots: Iterable[Snapshot], gone: Iterable[str]) -> None:
        """In place of what is there of these sources; those of `gone` are forgotten."""
        with self._database.transaction() as session:
            for taken in snapshots:
                session.merge(_Counts(source=taken.source, number=taken.number, samples=_json(taken.samples)))
            session.execute(delete(_Counts).where(_Counts.source.in_(list(gone))))


def _json(samples: Samples) -> str:
    return orjson.dumps([(name, labels, value) for (name, labels), value in samples.items()]).decode()


def _samples(text: str) -> Samples:
    return {
        (name, tuple((label, value) for label, value in labels)): number for name, labels, number in orjson.loads(text)
    }
