"""Tokenization, as LocalAI offers it."""

from pydantic import BaseModel

from api.schemas.common import WireModel


class TokenizeParams(WireModel):
    content: str
    model: str | None = None
    """Left out: the first model that can do it."""
    add_special: bool = False
    """Begin with the model's BOS token, where it wants one."""


class Tokens(BaseModel):
    tokens: list[int]
