"""Assistants on the wire: LocalAI's shape, and beside it what OpenAI's clients look for."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from api.assistants import MAX_FILES, AttachedFile
from api.assistants import Assistant as Record
from api.schemas.common import WireModel
from api.schemas.ignored import report_ignored

MAX_NAME = 256
MAX_DESCRIPTION = 512
MAX_INSTRUCTIONS = 32_768
MAX_TOOLS = 128
MAX_PAIRS = 16
MAX_KEY = 64
MAX_VALUE = 512

Key = Annotated[str, Field(max_length=MAX_KEY)]
Value = Annotated[str, Field(max_length=MAX_VALUE)]


# ---- requests --------------------------------------------------------------------------------------------------------


class AssistantTool(WireModel):
    """A tool that the assistant may use. What is beside the type is kept as it is: a function's schema."""

    type: Literal["code_interpreter", "retrieval", "function"]


class AssistantChanges(WireModel):
    """What is to change of an assistant: what is left out stays, what is null goes."""

    model: str | None = None
    """An installed one. Null: it stays."""
    name: Annotated[str | None, Field(max_length=MAX_NAME)] = None
    description: Annotated[str | None, Field(max_length=MAX_DESCRIPTION)] = None
    instructions: Annotated[str | None, Field(max_length=MAX_INSTRUCTIONS)] = None
    tools: Annotated[list[AssistantTool] | None, Field(max_length=MAX_TOOLS)] = None
    file_ids: Annotated[list[str] | None, Field(max_length=MAX_FILES)] = None
    """Uploaded files: all that it is to have."""
    metadata: Annotated[dict[Key, Value] | None, Field(max_length=MAX_PAIRS)] = None


class AssistantRequest(AssistantChanges):
    """A new assistant."""

    model: str
    """An installed one."""


class AssistantFileRequest(WireModel):
    file_id: str
    """An uploaded file."""


# ---- answers ---------------------------------------------------------------------------------------------------------


class StoredTool(BaseModel):
    model_config = ConfigDict(extra="allow")

    type: Literal["code_interpreter", "retrieval", "function"]


class Assistant(BaseModel):
    id: str
    object: Literal["assistant"] = "assistant"
    created: int
    """Unix seconds."""
    model: str
    name: str | None = None
    description: str | None = None
    instructions: str | None = None
    tools: list[StoredTool] = []
    file_ids: list[str] = []
    metadata: dict[str, str] = {}

    # OpenAI's
    created_at: int
    """The same as `created`."""


class AssistantDeleted(BaseModel):
    id: str
    object: Literal["assistant.deleted"] = "assistant.deleted"
    deleted: Literal[True] = True


class AssistantFile(BaseModel):
    id: str
    object: Literal["assistant.file"] = "assistant.file"
    created_at: int
    """Unix seconds: when it was attached."""
    assistant_id: str


class AssistantFileList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AssistantFile]
    first_id: str | None = None
    last_id: str | None = None
    has_more: bool = False


class AssistantFileDeleted(BaseModel):
    id: str
    object: Literal["assistant.file.deleted"] = "assistant.file.deleted"
    deleted: Literal[True] = True


def to_fields(wire: AssistantChanges) -> dict[str, Any]:
    """What the request says of the assistant, but for its files."""
    report_ignored(wire.model_extra or ())
    fields = wire.model_dump(include=set(AssistantChanges.model_fields) - {"file_ids"}, exclude_unset=True)
    if fields.get("model", "") is None:
        del fields["model"]
    return fields


def to_assistant(record: Record) -> Assistant:
    return Assistant(
        id=record.id, created=record.created, created_at=record.created, file_ids=list(record.file_ids), **record.fields
    )


def to_assistant_file(file: AttachedFile) -> AssistantFile:
    return AssistantFile(id=file.id, created_at=file.created, assistant_id=file.assistant_id)


def to_assistant_file_list(files: Sequence[AttachedFile], has_more: bool) -> AssistantFileList:
    data = [to_assistant_file(file) for file in files]
    ids = [file.id for file in files]
    return AssistantFileList(
        data=data, first_id=ids[0] if ids else None, last_id=ids[-1] if ids else None, has_more=has_more
    )
