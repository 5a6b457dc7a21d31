"""Regular expressions that clients send, matched in linear time."""

from collections.abc import Callable
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import SchemaError

from deployments.errors import InvalidRequest


def name_filter(pattern: str | None) -> Callable[[str], bool]:
    """Whether a name holds a match of `pattern`; None matches all. Raises InvalidRequest.

    By the Rust engine that pydantic brings: like LocalAI's RE2, and unlike `re`, no pattern makes it slow.
    """
    if pattern is None:
        return lambda _: True
    try:
        checked = TypeAdapter(Annotated[str, Field(pattern=pattern)])
    except SchemaError as error:
        raise InvalidRequest(f"Invalid 'filter': {pattern[:64]!r} is not a regular expression.").at("filter") from error

    def matches(name: str) -> bool:
        try:
            checked.validate_python(name)
        except ValidationError:
            return False
        return True

    return matches
