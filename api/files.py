"""Uploaded files: records in the database, contents in the blob store. Every ingress of the server sees the same."""

import asyncio
import logging
import re
import secrets
import time
import unicodedata
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.form_stream import Part, text
from api.paging import Page, page_of
from api.records import FileRow, LooseBlobRow, Records
from api.schemas.ignored import report_ignored
from deployments.errors import FileNotFound, InvalidRequest, MantaError, StorageFailed
from gallery.blobs import Blob, Blobs

logger = logging.getLogger("manta.files")

LOOSE_S = 6 * 3600.0
"""A blob without a file is removed after so long. No upload may take longer."""
SWEEP_PERIOD_S = 3600.0
MAX_NAME = 255
MAX_PURPOSE = 256
"""Bytes."""

_ID = re.compile(r"file-[0-9a-f]{32}")
_TIME_DIGITS = 14


@dataclass(frozen=True, slots=True)
class File:
    """The record of a file."""

    id: str
    """Begins with the time at which the upload began: files are ordered by it, those that are gone included."""
    filename: str
    purpose: str
    size: int
    """Bytes."""

    @property
    def created(self) -> datetime:
        microseconds = int(self.id.removeprefix("file-")[:_TIME_DIGITS], 16)
        return datetime.fromtimestamp(microseconds // 10**6, UTC).replace(microsecond=microseconds % 10**6)


def is_file_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def file_name(sent: str) -> str:
    """The base name of what a client calls a file: never a path, no control characters. Raises InvalidRequest."""
    printable = "".join(char for char in sent if unicodedata.category(char) not in ("Cc", "Cs"))
    name = printable.replace("\\", "/").rpartition("/")[2].replace("..", "").strip()
    if name in ("", "."):
        raise InvalidRequest("The file has no name.").at("file")
    if len(name) > MAX_NAME:
        raise InvalidRequest(f"The file's name is longer than {MAX_NAME} characters.").at("file")
    return name


class Files:
    """The server's files. All methods may raise NotReady and StorageFailed."""

    def __init__(self, records: Records, blobs: Blobs) -> None:
        self._records = records
        self._blobs = blobs

    async def create(self, form: AsyncIterator[Part], limit: int) -> File:
        """Store the `file` of a form, of at most `limit` bytes, and its `purpose`; in whatever order they come.

        Raises InvalidRequest, and InsufficientStorage. There is no file then, and nothing of its content.
        """
        file_id = f"file-{time.time_ns() // 1000:0{_TIME_DIGITS}x}{secrets.token_hex(9)}"
        await self._records.run(partial(_note_blob, name=file_id))
        try:
            file = await self._received(file_id, form, limit)
            await self._records.run(partial(_add, file=file))
        except BaseException:
            await self._discard(file_id, self._blobs.discard)
            raise
        return file

    async def listed(self, purpose: str | None, page: Page[str]) -> tuple[list[File], bool]:
        """A page of the files, and whether there are more behind it."""
        return await self._records.run(partial(_listed, purpose=purpose, page=page))

    async def get(self, file_id: str) -> File:
        """Raises FileNotFound."""
        return await self._records.run(partial(_found, file_id=file_id))

    async def content(self, file_id: str) -> tuple[File, Blob]:
        """Raises FileNotFound."""
        file = await self.get(file_id)
        blob = await self._blobs.find(file_id)
        if blob is None:
            raise _missing(file_id)
        return file, blob

    async def delete(self, file_id: str) -> None:
        """Raises FileNotFound. Assistants lose the file."""
        await self._records.run(partial(_remove, file_id=file_id))
        await self._discard(file_id, self._blobs.delete)

    async def sweep(self, older_than: float = LOOSE_S) -> int:
        """Remove what processes that died left without a file; how many blobs there were. `older_than`: seconds."""
        names = await self._records.run(partial(_loose, before=time.time() - older_than))
        for name in names:
            await self._discard(name, self._blobs.discard)
        return len(names)

    async def close(self) -> None:
        self._records.close()
        await self._blobs.close()

    async def _received(self, file_id: str, form: AsyncIterator[Part], limit: int) -> File:
        filename: str | None = None
        purpose, size = "", 0
        async for part in form:
            if part.name == "purpose":
                purpose = await text(part, MAX_PURPOSE)
            elif part.name == "file":
                if filename is not None:
                    raise InvalidRequest("Send one 'file'; this form has more.").at("file")
                if part.filename is None:
                    raise InvalidRequest("'file' is a text field here; send it as a file, with a file name.").at("file")
                filename = file_name(part.filename)
                await self._records.run(partial(_check_new, filename=filename))
                size = await self._blobs.put_stream(file_id, _limited(part.content, limit))
            else:
                report_ignored((part.name,))
        if filename is None:
            raise InvalidRequest("Missing required parameter: 'file'.").at("file")
        if not purpose:
            raise InvalidRequest("Purpose is not defined").at("purpose")
        return File(file_id, filename, purpose, size)

    async def _discard(self, name: str, remove: Callable[[str], Awaitable[None]]) -> None:
        """Remove a blob unless a file has it. What fails is left to the next sweep: nobody can see it."""
        try:
            if await self._records.run(partial(_doom, name=name)):
                await remove(name)
                await self._records.run(partial(_forget_blob, name=name))
        except MantaError as error:
            logger.warning("the blob %s of no file is not removed yet: %s", name, error.message)


async def sweep_for_ever(files: Files) -> None:
    """Remove what died uploads left, as long as this runs; one of the server's processes does. A failure is logged."""
    while True:
        try:
            if count := await files.sweep():
                logger.info("%d blobs without a file were removed", count)
        except MantaError as error:
            logger.warning("blobs without a file could not be removed: %s", error.message)
        await asyncio.sleep(SWEEP_PERIOD_S)


async def _limited(blocks: AsyncIterable[bytes], limit: int) -> AsyncIterator[bytes]:
    """The blocks of a file, which is counted to its end before it is refused."""
    size = 0
    async for block in blocks:
        size += len(block)
        if size <= limit:
            yield block
    if size > limit:
        raise InvalidRequest(f"File size {size} exceeds upload limit {limit}").at("file")


def _missing(file_id: str) -> FileNotFound:
    return FileNotFound(f"Unable to find file id {file_id[:64]!r}.").at("file_id")


# ---- transactions ----------------------------------------------------------------------------------------------------


def _note_blob(session: Session, name: str) -> None:
    session.add(LooseBlobRow(name=name, since=time.time()))


def _doom(session: Session, name: str) -> bool:
    """Whether it is loose; it can't become a file's any more then."""
    doomed = update(LooseBlobRow).where(LooseBlobRow.name == name).values(doomed=True)
    return session.scalar(doomed.returning(LooseBlobRow.name)) is not None


def _forget_blob(session: Session, name: str) -> None:
    session.execute(delete(LooseBlobRow).where(LooseBlobRow.name == name))


def _loose(session: Session, before: float) -> list[str]:
    return list(session.scalars(select(LooseBlobRow.name).where(LooseBlobRow.since < before)))


def _check_new(session: Session, filename: str) -> None:
    """Early, so that nobody uploads gigabytes in vain. Of several who upload at once the database lets one through."""
    if session.scalar(select(FileRow.id).where(FileRow.filename == filename)):
        raise _exists()


def _add(session: Session, file: File) -> None:
    """Its blob is loose no more."""
    its_blob = delete(LooseBlobRow).where(LooseBlobRow.name == file.id, ~LooseBlobRow.doomed)
    if session.scalar(its_blob.returning(LooseBlobRow.name)) is None:
        raise StorageFailed(f"The upload took more than {LOOSE_S / 3600:g} hours, which is too long.")
    session.add(FileRow(id=file.id, filename=file.filename, purpose=file.purpose, size=file.size))
    try:
        session.flush()
    except IntegrityError:
        raise _exists() from None


def _exists() -> InvalidRequest:
    return InvalidRequest("File already exists").at("file")


def _listed(session: Session, purpose: str | None, page: Page[str]) -> tuple[list[File], bool]:
    wanted = select(FileRow)
    if purpose is not None:
        if "\0" in purpose:
            return [], False  # PostgreSQL takes no such text
        wanted = wanted.where(FileRow.purpose == purpose)
    rows, has_more = page_of(session, wanted, FileRow.id, page)
    return [_file(row) for row in rows], has_more


def _found(session: Session, file_id: str) -> File:
    row = session.get(FileRow, file_id) if is_file_id(file_id) else None
    if row is None:
        raise _missing(file_id)
    return _file(row)


def _remove(session: Session, file_id: str) -> None:
    """Its blob is loose from then on."""
    gone = delete(FileRow).where(FileRow.id == file_id).returning(FileRow.id)
    if not is_file_id(file_id) or session.scalar(gone) is None:
        raise _missing(file_id)
    _note_blob(session, file_id)


def _file(row: FileRow) -> File:
    return File(row.id, row.filename, row.purpose, row.size)
