"""Edits: the request, and the object that answers it."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from api.schemas.common import MOST_CHOICES, StringOrList, Text, text_options
from api.schemas.completion import check_choices
from api.schemas.usage import CompletionUsage
from deployments.backends.base import EditRequest


class EditCreateParams(Text):
    instruction: str = ""
    """How to edit the input."""

    # LocalAI's: several inputs
    input: Annotated[StringOrList | None, Field(max_length=MOST_CHOICES)] = None
    """Text to edit; left out: the empty text."""


class EditChoice(BaseModel):
    text: str
    index: int
    logprobs: None
    finish_reason: Literal["stop", "length"]


class Edit(BaseModel):
    id: str
    object: Literal["edit"]
    created: int
    model: str
    choices: list[EditChoice]
    usage: CompletionUsage


def to_edit_request(wire: EditCreateParams, *, tenant: str, request_id: str) -> EditRequest:
    """The replica's form of an edit request. Raises InvalidRequest and UnsupportedParameter."""
    inputs = wire.input or [""]
    check_choices(len(inputs) * (wire.n or 1))
    options = text_options(wire, tenant=tenant, request_id=request_id)
    return EditRequest(**options, inputs=inputs, instruction=wire.instruction)
