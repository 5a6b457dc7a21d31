"""JSON Schema as we can obey it: which keywords, and what is added so that a small model comes to an end."""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum, auto
from typing import Any

from deployments.errors import InvalidRequest, UnsupportedParameter

Schema = dict[str, Any]


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

COMBINATORS = frozenset(("anyOf", "oneOf", "allOf", "$ref"))
"""Keywords whose schemas hold for the same value as their siblings."""

WHITESPACE = r"[\x20\x0A\x0D\x09]{1,16}"
"""Between tokens of JSON. Bounded: small models like to go on with spaces for ever."""

LARGEST_INTEGER = 2**53 - 1
"""Up to here JSON's integers mean the same to every reader (RFC 8259 §6)."""

DECIMALS = 9
"""Of a number with bounds, where the bounds themselves have 6 at most: every gap between them has room for some."""
BOUND_DECIMALS = 6
PLACES: Mapping[str, Any] = {"multipleOf": 10.0**-DECIMALS}
LOWER_BOUNDS, UPPER_BOUNDS = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")

LARGEST_FACTOR = 4
"""A `multipleOf` up to here has a common multiple with 10^-DECIMALS that llguidance can hold (10^DECIMALS times it in
32 bits)."""


def guidance_schema(schema: Mapping[str, Any], at: str = "response_format") -> Schema:
    """The schema that llguidance compiles, here or in another engine.

    What it accepts is valid by `schema`. Raises UnsupportedParameter at `at` that names every keyword we can't obey.
    """
    return {**bounded(checked(schema, at)), "x-guidance": {"whitespace_pattern": WHITESPACE}}


def checked(schema: Mapping[str, Any], at: str) -> Schema:
    """A copy without what asks for nothing. Raises UnsupportedParameter that names every keyword we can't obey."""
    unknown: set[str] = set()

    def known(one: Schema) -> Schema:
        unknown.update(keyword for keyword, value in one.items() if not _asks_for_nothing(keyword, value))
        return {keyword: value for keyword, value in one.items() if keyword in SUPPORTED_KEYWORDS}

    try:
        copy = mapped(dict(schema), known)
    except RecursionError:
        raise InvalidRequest("this JSON Schema is nested too deeply").at(at) from None
    if unknown:
        names = ", ".join(f"`{name}`" for name in sorted(unknown))
        raise UnsupportedParameter(f"JSON Schema keywords that are not supported: {names}").at(at)
    return copy


def bounded(schema: Schema) -> Schema:
    """A copy whose numbers have an end, where that costs no value that a reader of JSON could rely on.

    Integers stay where doubles are exact, and a number that is bounded anyway gets DECIMALS places. (llguidance writes
    no exponent within bounds. A number without any may have one, and stays as it is.)
    """
    factors = [one["multipleOf"] for one in subschemas(schema) if "multipleOf" in one] if _composed(schema) else []
    places = PLACES if all(_is_number(factor) and factor <= LARGEST_FACTOR for factor in factors) else {}

    def limited(one: Schema) -> Schema:
        kinds = one["type"] if isinstance(one.get("type"), list) else [one.get("type")]
        if one.keys() & (COMBINATORS | {"enum", "const"}) or not ("integer" in kinds or "number" in kinds):
            return one
        if "number" not in kinds:
            return {**one, **_missing_bounds(one)}
        bounds = _numbers(one, *LOWER_BOUNDS, *UPPER_BOUNDS)
        ends = bool(bounds) or "multipleOf" in one
        if not ends or any(round(bound, BOUND_DECIMALS) != bound for bound in bounds):
            return one
        return {**places, **one, **_missing_bounds(one)}

    return mapped(schema, limited)


def closed(schema: Schema) -> Schema:
    """A copy whose objects hold the properties that they name and no others, unless they say so themselves.

    For arguments of functions: what else a model makes up, a function can't take. Where schemas are put together, one
    that is shut would shut out what the other names: then all stays as it is.
    """
    if _composed(schema):
        return schema

    def shut(one: Schema) -> Schema:
        is_open = "properties" in one and not one.keys() & {"additionalProperties", "patternProperties"}
        return {**one, "additionalProperties": False} if is_open else one

    return mapped(schema, shut)


def mapped(schema: Schema, change: Callable[[Schema], Schema]) -> Schema:
    """A copy in which every schema, from the innermost outwards, is what `change` makes of it."""
    copy = {keyword: _mapped_below(SUPPORTED_KEYWORDS.get(keyword), value, change) for keyword, value in schema.items()}
    return change(copy)


def subschemas(schema: Schema) -> Iterator[Schema]:
    """All schemas in it, and itself."""
    found: list[Schema] = []

    def note(one: Schema) -> Schema:
        found.append(one)
        return one

    mapped(schema, note)
    return iter(found)


def _mapped_below(holds: Holds | None, value: Any, change: Callable[[Schema], Schema]) -> Any:
    if holds is Holds.SCHEMAS and isinstance(value, dict):
        return {name: _mapped_below(Holds.SCHEMA, one, change) for name, one in value.items()}
    if holds is Holds.SCHEMA and isinstance(value, list):
        return [_mapped_below(holds, one, change) for one in value]
    if holds is Holds.SCHEMA and isinstance(value, dict):
        return mapped(value, change)
    return value


def _asks_for_nothing(keyword: str, value: Any) -> bool:
    known = keyword in SUPPORTED_KEYWORDS or keyword in ANNOTATIONS or keyword.startswith("x-")
    return known or NEUTRAL.get(keyword, ...) == value


def _composed(schema: Schema) -> bool:
    """Whether several schemas hold for one value anywhere in it."""
    aside = {"$defs", "definitions", "$id", "$anchor"}
    return any(
        one.keys() & COMBINATORS and (len(one.keys() - aside) > 1 or "allOf" in one) for one in subschemas(schema)
    )


def _missing_bounds(one: Schema) -> Schema:
    lower, upper = _numbers(one, *LOWER_BOUNDS), _numbers(one, *UPPER_BOUNDS)
    missing: Schema = {}
    if not lower and all(bound > -LARGEST_INTEGER for bound in upper):
        missing["minimum"] = -LARGEST_INTEGER
    if not upper and all(bound < LARGEST_INTEGER for bound in lower):
        missing["maximum"] = LARGEST_INTEGER
    return missing


def _numbers(one: Schema, *keywords: str) -> list[float]:
    return [one[keyword] for keyword in keywords if _is_number(one.get(keyword))]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
