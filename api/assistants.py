"""Assistants: records of a model, instructions, tools and files. Nothing runs them; clients keep them here."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.files import is_file_id
from api.paging import Page, page_of
from api.records import AssistantRow, AttachedFileRow, FileRow, Records
from deployments.errors import AssistantNotFound, FileNotFound, InvalidRequest

MAX_FILES = 20
"""Of one assistant."""

_ID = re.compile(r"asst_(?P<number>[1-9]\d{0,17})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Assistant:
    """The record of an assistant."""

    number: int
    """Grows with every one, and never comes again."""
    created: int
    """Unix seconds."""
    fields: Mapping[str, Any]
    """What the client says of it, but for its files."""
    file_ids: Sequence[str]
    """In the order in which they were attached."""

    @property
    def id(self) -> str:
        return f"asst_{self.number}"


@dataclass(frozen=True, slots=True)
class AttachedFile:
    """A file of an assistant."""

    id: str
    assistant_id: str
    created: int
    """Unix seconds: when it was attached."""


def number_of(assistant_id: str) -> int | None:
    """The number in an assistant's id; None for what is no such id."""
    match = _ID.fullmatch(assistant_id)
    return int(match["number"]) if match else None


class Assistants:
    """The server's assistants. All methods may raise NotReady; those that take an id AssistantNotFound."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def create(self, fields: Mapping[str, Any], file_ids: Sequence[str]) -> Assistant:
        """Raises FileNotFound."""
        return await self._records.run(partial(_create, fields=fields, file_ids=file_ids))

    async def listed(self, page: Page[int]) -> list[Assistant]:
        """A page of them, by number."""
        return await self._records.run(partial(_listed, page=page))

    async def get(self, assistant_id: str) -> Assistant:
        return await self._records.run(partial(_get, assistant_id=assistant_id))

    async def modify(
        self, assistant_id: str, fields: Mapping[str, Any], file_ids: Sequence[str] | None = None
    ) -> Assistant:
        """Put `fields` in place of those it has; None: that one goes. `file_ids`: all that it is to have.

        Raises FileNotFound.
        """
        return await self._records.run(partial(_modify, assistant_id=assistant_id, fields=fields, file_ids=file_ids))

    async def delete(self, assistant_id: str) -> None:
        await self._records.run(partial(_delete, assistant_id=assistant_id))

    async def attach(self, assistant_id: str, file_id: str) -> AttachedFile:
        """Raises FileNotFound, and InvalidRequest when it has `MAX_FILES`. One that it has stays as it is."""
        return await self._records.run(partial(_attach, assistant_id=assistant_id, file_id=file_id))

    async def files(self, assistant_id: str) -> list[AttachedFile]:
        """In the order in which they were attached."""
        return await self._records.run(partial(_files, assistant_id=assistant_id))

    async def file(self, assistant_id: str, file_id: str) -> AttachedFile:
        """Raises AssistantNotFound for a file that it doesn't have, too."""
        for file in await self.files(assistant_id):
            if file.id == file_id:
                return file
        raise _not_attached(file_id)

    async def detach(self, assistant_id: str, file_id: str) -> None:
        """As `file`. The file itself stays."""
        await self._records.run(partial(_detach, assistant_id=assistant_id, file_id=file_id))


# ---- transactions ----------------------------------------------------------------------------------------------------


def _create(session: Session, fields: Mapping[str, Any], file_ids: Sequence[str]) -> Assistant:
    row = AssistantRow(created=int(time.time()), fields=_without_nulls(fields))
    session.add(row)
    _set_files(session, row, file_ids)
    return _assistant(row)


def _listed(session: Session, page: Page[int]) -> list[Assistant]:
    rows, _ = page_of(session, select(AssistantRow), AssistantRow.number, page)
    return [_assistant(row) for row in rows]


def _get(session: Session, assistant_id: str) -> Assistant:
    return _assistant(_row(session, assistant_id))


def _modify(
    session: Session, assistant_id: str, fields: Mapping[str, Any], file_ids: Sequence[str] | None
) -> Assistant:
    row = _locked(session, assistant_id)
    row.fields = _without_nulls({**row.fields, **fields})
    if file_ids is not None:
        _set_files(session, row, file_ids)
    return _assistant(row)


def _delete(session: Session, assistant_id: str) -> None:
    session.delete(_row(session, assistant_id))


def _attach(session: Session, assistant_id: str, file_id: str) -> AttachedFile:
    row = _locked(session, assistant_id)
    has = [file.file for file in row.files]
    if file_id not in has and len(has) >= MAX_FILES:
        name = row.fields.get("name", assistant_id)
        raise InvalidRequest(f"Max files {MAX_FILES} for assistant {name} reached.").at("file_id")
    _set_files(session, row, [*has, file_id])
    return next(file for file in _attached(row) if file.id == file_id)


def _files(session: Session, assistant_id: str) -> list[AttachedFile]:
    return _attached(_row(session, assistant_id))


def _detach(session: Session, assistant_id: str, file_id: str) -> None:
    row = _locked(session, assistant_id)
    kept = [file for file in row.files if file.file != file_id]
    if len(kept) == len(row.files):
        raise _not_attached(file_id)
    row.files = kept


def _set_files(session: Session, row: AssistantRow, file_ids: Sequence[str]) -> None:
    """Attach these, in this order, and no others. Raises FileNotFound."""
    ids = [file_id for file_id in file_ids if is_file_id(file_id)]
    known = set(session.scalars(select(FileRow.id).where(FileRow.id.in_(ids))))
    if unknown := [file_id for file_id in file_ids if file_id not in known]:
        raise _no_such_file(unknown[0])
    now, since = int(time.time()), {file.file: file.created for file in row.files}
    row.files = [AttachedFileRow(file=file_id, created=since.get(file_id, now)) for file_id in dict.fromkeys(ids)]
    try:
        session.flush()
    except IntegrityError:  # one of them was deleted since
        raise _no_such_file(ids[-1]) from None


def _row(session: Session, assistant_id: str) -> AssistantRow:
    number = number_of(assistant_id)
    row = None if number is None else session.get(AssistantRow, number)
    if row is None:
        raise AssistantNotFound(f"Unable to find assistant with id: {assistant_id[:64]}").at("assistant_id")
    return row


def _locked(session: Session, assistant_id: str) -> AssistantRow:
    """The same for one that is to be changed: a write makes others wait who want to, in SQLite too."""
    touch = update(AssistantRow).where(AssistantRow.number == number_of(assistant_id))
    session.execute(touch.values(created=AssistantRow.created), execution_options={"synchronize_session": False})
    return _row(session, assistant_id)


def _without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _assistant(row: AssistantRow) -> Assistant:
    return Assistant(row.number, row.created, row.fields, [file.file for file in row.files])


def _attached(row: AssistantRow) -> list[AttachedFile]:
    return [AttachedFile(file.file, f"asst_{row.number}", file.created) for file in row.files]


def _no_such_file(file_id: str) -> FileNotFound:
    return FileNotFound(f"Unable to find file_id: {file_id[:64]}").at("file_ids")


def _not_attached(file_id: str) -> AssistantNotFound:
    return AssistantNotFound(f"The assistant has no file {file_id[:64]!r}.").at("file_id")
