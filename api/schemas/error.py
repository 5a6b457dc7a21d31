"""Errors, as OpenAI writes them."""

from pydantic import BaseModel


class ErrorObject(BaseModel):
    message: str
    type: str
    param: str | None
    """The request field at fault."""
    code: str | None


class ErrorResponse(BaseModel):
    error: ErrorObject
