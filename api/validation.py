"""What is wrong with a request, in one sentence a client can act on, from pydantic's list of errors."""

from collections.abc import Mapping, Sequence
from typing import Any

from deployments.errors import InvalidRequest

_EXPECTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "a boolean",
    "bool_parsing": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
"""Pydantic's error type → the JSON type that was expected."""

_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
    "too_short": ("at least {min_length} items", "min_length"),
    "too_long": ("at most {max_length} items", "max_length"),
}
"""Pydantic's error type → the bound in words, and its name in the error's context."""

_KINDS: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def first_mistake(errors: Sequence[Mapping[str, Any]]) -> InvalidRequest:
    """The error for the client: the first mistake, with the field it is in as OpenAI writes it (`messages[0].role`)."""
    error = errors[0]
    field = _field(error["loc"])
    mistake = InvalidRequest(_sentence(error, field))
    return mistake.at(field) if field else mistake


def kind(value: object) -> str:
    """The JSON type of a value, with its article."""
    return _KINDS.get(type(value), "another type")


def shown(value: object, limit: int = 64) -> str:
    """A value of the client's in a message to it."""
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


def _sentence(error: Mapping[str, Any], field: str) -> str:
    type_, value, context = error["type"], error.get("input"), error.get("ctx", {})
    name = f"'{field}'" if field else "the body"
    if type_ == "missing":
        return f"Missing required parameter: {name}."
    if type_ in _EXPECTED:
        return f"Invalid type for {name}: expected {_EXPECTED[type_]}, but got {kind(value)} instead."
    if type_ in _BOUNDS:
        words, bound = _BOUNDS[type_]
        if "{" in words:
            return f"Invalid {name}: expected {words.format(**context)}, but got {context['actual_length']}."
        return f"Invalid {name}: expected a value of {words} {context[bound]:g}, but got {shown(value)}."
    if type_ == "literal_error":
        return f"Invalid value for {name}: {shown(value)}. Supported values are: {context['expected']}."
    return f"Invalid {name}: {error['msg'].removeprefix('Value error, ')}."


def _field(location: Sequence[str | int]) -> str:
    path = ""
    for step in location[1:]:  # the first says body, query or path
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path
