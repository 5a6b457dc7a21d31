"""Uploaded files on the wire: LocalAI's shape, and beside it what OpenAI's clients look for."""

from typing import Literal

from pydantic import BaseModel, Field

from api.files import MAX_PURPOSE
from api.files import File as Record


class FileForm(BaseModel):
    """The form of an upload, beside the file."""

    purpose: str = Field(min_length=1, max_length=MAX_PURPOSE)
    """Any; the list can be filtered by it."""


class File(BaseModel):
    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: str
    """RFC 3339."""
    filename: str
    purpose: str

    # OpenAI's
    status: Literal["processed"] = "processed"


class FileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[File]

    # OpenAI's
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False
    """There is more behind `last_id`: ask with it as `after`."""


class FileDeleted(BaseModel):
    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


def to_file(record: Record) -> File:
    return File(
        id=record.id,
        bytes=record.size,
        created_at=record.created.isoformat().replace("+00:00", "Z"),
        filename=record.filename,
        purpose=record.purpose,
    )


def to_file_list(records: list[Record], has_more: bool) -> FileList:
    files = [to_file(record) for record in records]
    ids = [file.id for file in files]
    return FileList(data=files, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more)
