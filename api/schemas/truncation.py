"""What becomes of an input that is longer than the model reads: the request field that says it."""

from typing import Annotated

from pydantic import BeforeValidator, WithJsonSchema

_NAMES = {"END": True, "NONE": False}
"""As Cohere's and Text Embeddings Inference's clients say it."""


def _as_boolean(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.upper() not in _NAMES:
        raise ValueError("expected a boolean, 'END' or 'NONE'; which end is cut is the model's choice")
    return _NAMES[value.upper()]


Truncate = Annotated[
    bool,
    BeforeValidator(_as_boolean),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": list(_NAMES)}]}),
]
"""Cut what is too long; false: refuse it."""
