"""Multipart forms with one file, read within limits. A large file waits on disk, unnamed, and is mapped, not copied."""

import mmap
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartParser
from starlette.requests import Request

from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_PARTS = 100
"""Fields, and files, of one form."""

Form = TypeVar("Form", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Upload:
    """A form. Nothing of it is on disk any more once `content` is freed."""

    fields: Sequence[tuple[str, str]]
    """Names in lower case, as sent else; a name may be there several times."""
    content: "NDArray[np.uint8]"
    """The file's bytes. Those of a large file are read from disk where they are used."""


async def read_upload(request: Request) -> Upload:
    """The form of a request. Raises InvalidRequest at `file` unless it has just one file of that name, with content."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "multipart/form-data":
        sent = f"{content_type:.64}" if content_type else "nothing"
        raise InvalidRequest(f"Send the file as multipart/form-data; the Content-Type says {sent!r}.").at("file")
    async with request.form(max_files=MAX_PARTS, max_fields=MAX_PARTS) as form:
        parts = [(name.lower(), value) for name, value in form.multi_items()]
        file = _only_file(parts)
        fields = [(name, value) for name, value in parts if isinstance(value, str)]
        return Upload(fields, _bytes_of(file))


def form_schema(
    form: type[BaseModel], files: Sequence[str] = ("file",), optional: Sequence[str] = ()
) -> dict[str, Any]:
    """OpenAPI's description of a multipart body: `form` and files, by their names."""
    schema = form.model_json_schema()
    file = {"type": "string", "format": "binary"}
    fields = {name: _without_null(field) for name, field in schema["properties"].items()}
    schema["properties"] = dict.fromkeys((*files, *optional), file) | fields
    schema["required"] = [*files, *schema.get("required", ())]
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def parse_fields(form: type[Form], fields: Sequence[tuple[str, str]], lists: Collection[str] = ()) -> Form:
    """The fields as an object. Of `lists` all values count, of others the last; `[]` behind a name says nothing more.

    Raises RequestValidationError, as FastAPI does for what it parses itself. An empty value is none.
    """
    values: dict[str, Any] = {}
    for name, value in fields:
        name = name.removesuffix("[]")
        if name in lists:
            values.setdefault(name, []).append(value)
        elif value:
            values[name] = value
    try:
        return form.model_validate(values)
    except ValidationError as error:
        mistakes = [{**mistake, "loc": ("body", *mistake["loc"])} for mistake in error.errors()]
        raise RequestValidationError(mistakes) from None


def _without_null(field: dict[str, Any]) -> dict[str, Any]:
    """A field's schema without null, which a form can't say; it leaves the field out."""
    field = {key: value for key, value in field.items() if key != "default" or value is not None}
    kinds = [kind for kind in field.pop("anyOf", ()) if kind != {"type": "null"}]
    return field | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {})


def _only_file(parts: Sequence[tuple[str, UploadFile | str]]) -> UploadFile:
    files = [value for name, value in parts if name == "file"]
    if not files:
        others = [name for name, value in parts if isinstance(value, UploadFile)]
        found = f" There is one named '{others[0]:.64}'." if others else ""
        raise InvalidRequest(f"Missing required parameter: 'file'.{found}").at("file")
    if len(files) > 1:
        raise InvalidRequest(f"Send one 'file'; this request has {len(files)}.").at("file")
    (file,) = files
    if isinstance(file, str):
        raise InvalidRequest("'file' is a text field here; send it as a file, with a file name.").at("file")
    if not file.size:
        raise InvalidRequest("The file is empty.").at("file")
    return file


def _bytes_of(file: UploadFile) -> "NDArray[np.uint8]":
    """One array over the file's bytes. The pages of one that is on disk stay when it is closed."""
    import numpy as np  # with the first upload: whoever only reads these routes needs none

    if (file.size or 0) <= MultiPartParser.spool_max_size:
        return np.frombuffer(file.file.read(), np.uint8)
    file.file.flush()
    return np.frombuffer(mmap.mmap(file.file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
