"""Files that clients upload, and get back as they were."""

from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Depends, Header, Query
from starlette.requests import Request
from starlette.responses import Response

from api.blob_response import BlobResponse
from api.call import Caller
from api.files import Files, is_file_id
from api.form_stream import form_parts
from api.paging import Order, from_cursors, whole_up_to
from api.schemas.file import File, FileDeleted, FileForm, FileList, to_file, to_file_list
from api.uploads import form_schema
from deployments.errors import InvalidRequest

router = APIRouter(tags=["Files"])

MAX_LISTED = 10_000

MEDIA_TYPES = {
    ".csv": "text/csv; charset=utf-8",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown; charset=utf-8",
    ".mp3": "audio/mpeg",
    ".ogg": "audio/ogg",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".txt": "text/plain; charset=utf-8",
    ".wav": "audio/wav",
    ".webp": "image/webp",
}
"""Suffix of a file's name → type of its content. Nothing that a browser would run: no HTML, SVG, XML or script."""


async def _files(request: Request) -> Files:
    files: Files = request.app.state.files
    return files


FilesOf = Annotated[Files, Depends(_files)]


@router.post("/files", openapi_extra=form_schema(FileForm))
async def create_file(request: Request, call: Caller, files: FilesOf) -> File:
    """Upload a file under a name that no other file has."""
    async with form_parts(request) as form:
        return to_file(await files.create(form, call.settings.upload_limit_mb * 2**20))


@router.get("/files")
async def list_files(
    files: FilesOf,
    purpose: Annotated[str | None, Query(description="Only those of this purpose.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_LISTED), whole_up_to(MAX_LISTED)] = MAX_LISTED,
    order: Order = Order.DESC,
    after: Annotated[str | None, Query(description="Id of the file behind which the list begins.")] = None,
) -> FileList:
    """The files, the latest first."""
    if after and not is_file_id(after):
        raise InvalidRequest("Invalid 'after': expected the id of a file.").at("after")
    return to_file_list(*await files.listed(purpose, from_cursors(limit, order, after or None)))


@router.get("/files/{file_id}")
async def retrieve_file(file_id: str, files: FilesOf) -> File:
    """What is known about a file."""
    return to_file(await files.get(file_id))


@router.delete("/files/{file_id}")
async def delete_file(file_id: str, files: FilesOf) -> FileDeleted:
    """Delete a file; assistants that have it lose it."""
    await files.delete(file_id)
    return FileDeleted(id=file_id)


_CONTENT = {"*/*": {"schema": {"type": "string", "format": "binary"}}}


@router.get(
    "/files/{file_id}/content",
    response_class=Response,
    responses={200: {"content": _CONTENT}, 206: {"content": _CONTENT, "description": "The part that was asked for"}},
)
async def download_file(file_id: str, files: FilesOf, range: Annotated[str, Header()] = "") -> Response:  # noqa: A002
    """A file's content, byte for byte. With `Range`, a part of it."""
    file, blob = await files.content(file_id)
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file.filename, safe='')}",
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
    }
    media_type = MEDIA_TYPES.get(PurePosixPath(file.filename).suffix.lower(), "application/octet-stream")
    return BlobResponse(blob, headers, media_type=media_type, wanted=range)
