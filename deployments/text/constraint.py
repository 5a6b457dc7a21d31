"""JSON Schema as a constraint on the next token: a mask over the vocabulary, by llguidance."""

import json
from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import Any

import numpy as np
from llguidance import LLMatcher, LLTokenizer
from numpy.typing import NDArray

from deployments.errors import EngineError, InvalidRequest, UnsupportedParameter


class Holds(Enum):
    """What stands under a keyword of JSON Schema."""

    VALUE = auto()
    """Anything but schemas."""
    SCHEMA = auto()
    """A schema, or a list of them."""
    SCHEMAS = auto()
    """Names of the client's choice, each with a schema."""


SUPPORTED_KEYWORDS: Mapping[str, Holds] = {
    **dict.fromkeys(("type", "enum", "const", "$ref", "$anchor", "$id", "format", "pattern"), Holds.VALUE),
    **dict.fromkeys(("minLength", "maxLength", "minimum", "maximum"), Holds.VALUE),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum", "multipleOf"), Holds.VALUE),
    **dict.fromkeys(("minItems", "maxItems", "minProperties", "maxProperties", "required"), Holds.VALUE),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "items", "prefixItems"), Holds.SCHEMA),
    **dict.fromkeys(("additionalItems", "additionalProperties"), Holds.SCHEMA),
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions"), Holds.SCHEMAS),
}
"""Keywords that the output obeys (llguidance 1.9, docs/json_schema.md), and what stands under each."""

ANNOTATIONS = frozenset(
    ("$schema", "$comment", "title", "description", "default", "example", "examples", "deprecated", "readOnly",
     "writeOnly", "contentEncoding", "contentMediaType")
)  # fmt: skip
"""Keywords that say nothing about what is valid."""

NEUTRAL: Mapping[str, Any] = {"uniqueItems": False, "nullable": False}
"""Keywords that we don't support, with the value at which they ask for nothing."""

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,16}"
"""Between tokens of JSON. Bounded: small models like to go on with spaces for ever."""

LONGEST_ERROR = 300


class JsonSchemaConstraint:
    """The output so far, and what may follow so that a schema's JSON document comes out."""

    def __init__(self, tokenizer: LLTokenizer, schema: Mapping[str, Any]) -> None:
        """Compiling takes milliseconds. Raises InvalidRequest at `response_format`."""
        grammar = LLMatcher.grammar_from_json_schema(
            json.dumps(checked(schema)), overrides={"whitespace_pattern": WHITESPACE}
        )
        self._matcher = LLMatcher(tokenizer, grammar, log_level=0)
        if self._matcher.is_error():
            problem = _short(self._matcher.get_error())
            raise InvalidRequest(f"this JSON Schema can't be followed: {problem}").at("response_format")
        self.finished = False
        """The document is complete, and nothing but the end can follow."""

    def mask(self, logits: NDArray[np.float32]) -> None:
        """Write -inf at every token that may not follow. `logits` has the vocabulary's size."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        forbidden = np.unpackbits(bits, count=logits.size, bitorder="little") == 0
        np.copyto(logits, -np.inf, where=forbidden)
        if self._matcher.is_error():
            raise EngineError(f"the schema's constraint failed: {_short(self._matcher.get_error())}")

    def accept(self, token: int) -> None:
        """`token` was chosen."""
        if not self._matcher.consume_token(token):
            raise EngineError(f"the schema does not allow token {token}")
        self.finished = self._matcher.is_stopped()

    def replay(self, tokens: Iterable[int]) -> None:
        """`tokens` were chosen before, elsewhere."""
        for token in tokens:
            self.accept(token)


def checked(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy without what asks for nothing. Raises UnsupportedParameter that names every keyword we can't obey."""
    unknown: set[str] = set()
    try:
        copy: dict[str, Any] = _copy(dict(schema), unknown)
    except RecursionError:
        raise InvalidRequest("this JSON Schema is nested too deeply").at("response_format") from None
    if unknown:
        names = ", ".join(f"`{name}`" for name in sorted(unknown))
        raise UnsupportedParameter(f"JSON Schema keywords that are not supported: {names}").at("response_format")
    return copy


def _copy(schema: Any, unknown: set[str]) -> Any:
    if isinstance(schema, list):
        return [_copy(one, unknown) for one in schema]
    if not isinstance(schema, dict):
        return schema
    copy: dict[str, Any] = {}
    for keyword, value in schema.items():
        holds = SUPPORTED_KEYWORDS.get(keyword)
        if holds is Holds.SCHEMAS and isinstance(value, dict):
            copy[keyword] = {name: _copy(one, unknown) for name, one in value.items()}
        elif holds is Holds.SCHEMA:
            copy[keyword] = _copy(value, unknown)
        elif holds is not None:
            copy[keyword] = value
        elif keyword not in ANNOTATIONS and not keyword.startswith("x-") and NEUTRAL.get(keyword, ...) != value:
            unknown.add(keyword)
    return copy


def _short(error: str) -> str:
    """llguidance's errors may go on for pages."""
    words = " ".join(error.split())
    return words if len(words) <= LONGEST_ERROR else f"{words[:LONGEST_ERROR]}…"
