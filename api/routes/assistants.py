"""Assistants, which clients keep here; nothing runs them."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request

from api.assistants import MAX_FILES, Assistants, number_of
from api.call import Call, Caller
from api.json_body import JSONRoute
from api.paging import Order, Page, from_cursors, whole_up_to
from api.schemas.assistant import (
    Assistant,
    AssistantChanges,
    AssistantDeleted,
    AssistantFile,
    AssistantFileDeleted,
    AssistantFileList,
    AssistantFileRequest,
    AssistantRequest,
    to_assistant,
    to_assistant_file,
    to_assistant_file_list,
    to_fields,
)
from deployments.errors import InvalidRequest

router = APIRouter(route_class=JSONRoute, tags=["Assistants"])

MAX_LISTED = 100


async def _assistants(request: Request) -> Assistants:
    assistants: Assistants = request.app.state.assistants
    return assistants


AssistantsOf = Annotated[Assistants, Depends(_assistants)]
Limit = Annotated[int, Query(ge=1, le=MAX_LISTED), whole_up_to(MAX_LISTED)]
Cursor = Annotated[str, Query(description="An assistant's id; or its number, which is a bound in every order.")]
FileCursor = Annotated[str, Query(description="A file's id.")]


@router.post("/assistants", response_model_exclude_none=True)
async def create_assistant(body: AssistantRequest, call: Caller, assistants: AssistantsOf) -> Assistant:
    """Keep an assistant."""
    _check_model(call, body.model)
    return to_assistant(await assistants.create(to_fields(body), body.file_ids or ()))


@router.get("/assistants", response_model_exclude_none=True)
async def list_assistants(
    assistants: AssistantsOf, limit: Limit = 20, order: Order = Order.DESC, after: Cursor = "", before: Cursor = ""
) -> list[Assistant]:
    """The assistants, the latest first."""
    return [to_assistant(record) for record in await assistants.listed(_page(limit, order, after, before))]


@router.get("/assistants/{assistant_id}", response_model_exclude_none=True)
async def retrieve_assistant(assistant_id: str, assistants: AssistantsOf) -> Assistant:
    """An assistant."""
    return to_assistant(await assistants.get(assistant_id))


@router.post("/assistants/{assistant_id}", response_model_exclude_none=True)
async def modify_assistant(
    assistant_id: str, body: AssistantChanges, call: Caller, assistants: AssistantsOf
) -> Assistant:
    """Change what the request names of an assistant."""
    _check_model(call, body.model)
    file_ids = (body.file_ids or ()) if "file_ids" in body.model_fields_set else None
    return to_assistant(await assistants.modify(assistant_id, to_fields(body), file_ids))


@router.delete("/assistants/{assistant_id}")
async def delete_assistant(assistant_id: str, assistants: AssistantsOf) -> AssistantDeleted:
    """Delete an assistant. Its files stay."""
    await assistants.delete(assistant_id)
    return AssistantDeleted(id=assistant_id)


# ---- files -----------------------------------------------------------------------------------------------------------


@router.post("/assistants/{assistant_id}/files")
async def create_assistant_file(
    assistant_id: str, body: AssistantFileRequest, assistants: AssistantsOf
) -> AssistantFile:
    """Attach an uploaded file to an assistant."""
    return to_assistant_file(await assistants.attach(assistant_id, body.file_id))


@router.get("/assistants/{assistant_id}/files")
async def list_assistant_files(
    assistant_id: str,
    assistants: AssistantsOf,
    limit: Limit = MAX_FILES,
    order: Order = Order.DESC,
    after: FileCursor = "",
    before: FileCursor = "",
) -> AssistantFileList:
    """The files attached to an assistant, the latest first."""
    files = await assistants.files(assistant_id)
    if order is Order.DESC:
        files.reverse()
    ids = [file.id for file in files]
    start = ids.index(after) + 1 if after in ids else 0
    end = ids.index(before) if before in ids else len(ids)
    return to_assistant_file_list(files[start:end][:limit], end - start > limit)


@router.get("/assistants/{assistant_id}/files/{file_id}")
async def retrieve_assistant_file(assistant_id: str, file_id: str, assistants: AssistantsOf) -> AssistantFile:
    """A file attached to an assistant."""
    return to_assistant_file(await assistants.file(assistant_id, file_id))


@router.delete("/assistants/{assistant_id}/files/{file_id}")
async def delete_assistant_file(assistant_id: str, file_id: str, assistants: AssistantsOf) -> AssistantFileDeleted:
    """Detach a file from an assistant. The file stays."""
    await assistants.detach(assistant_id, file_id)
    return AssistantFileDeleted(id=file_id)


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _check_model(call: Call, model: str | None) -> None:
    if model is not None and all(card.name != model for card in call.gateway.cards()):
        raise InvalidRequest(f'Model "{model[:256]}" not found').at("model")


def _page(limit: int, order: Order, after: str, before: str) -> Page[int]:
    """Ids are cursors in the list's order, as OpenAI has them; bare numbers are bounds whatever it is, as LocalAI's."""
    page = from_cursors(limit, order, _cursor("after", after), _cursor("before", before))
    above, below = _bound(after), _bound(before)
    return Page(limit, order, page.above if above is None else above, page.below if below is None else below)


def _bound(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None


def _cursor(name: str, text: str) -> int | None:
    if not text or _bound(text) is not None:
        return None
    if (number := number_of(text)) is None:
        raise InvalidRequest(f"Invalid '{name}': expected the id of an assistant, or its number.").at(name)
    return number
