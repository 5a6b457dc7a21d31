"""JSON Schema: which keywords are obeyed, and what is added."""

from typing import Any

import pytest

from deployments.errors import InvalidRequest, UnsupportedParameter
from deployments.text.json_schema import (
    ANNOTATIONS,
    LARGEST_INTEGER,
    PLACES,
    SUPPORTED_KEYWORDS,
    bounded,
    checked,
    closed,
    guidance_schema,
)

SHUT = {"additionalProperties": False}


def test_unsupported_keywords_are_all_named_wherever_they_stand() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "uniqueItems": True}, "b": {"anyOf": [{"not": {"type": "string"}}]}},
        "$defs": {"c": {"if": {}, "then": {}}},
        "dependentRequired": {"a": ["b"]},
    }
    with pytest.raises(UnsupportedParameter) as caught:
        checked(schema, "tools[3].function.parameters")
    assert caught.value.param == "tools[3].function.parameters"
    for name in ("uniqueItems", "not", "if", "then", "dependentRequired"):
        assert f"`{name}`" in caught.value.message


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(3000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="deep"):
        checked(schema, "response_format")


def test_no_keyword_is_both_obeyed_and_ignored() -> None:
    assert not SUPPORTED_KEYWORDS.keys() & ANNOTATIONS


def test_what_is_given_is_not_changed() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "title": "A"}}, "x-guidance": {"lenient": True}}
    made = guidance_schema(schema)
    assert schema["properties"] == {"a": {"type": "integer", "title": "A"}}
    assert made["x-guidance"].keys() == {"whitespace_pattern"}, "the client doesn't set the compiler's options"


@pytest.mark.parametrize(
    ("schema", "added"),
    [
        ({"type": "integer"}, {"minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER}),
        ({"type": ["integer", "null"], "minimum": 3}, {"maximum": LARGEST_INTEGER}),
        ({"type": "integer", "exclusiveMinimum": 2**60}, {}),
        ({"type": "integer", "maximum": -(2**60)}, {}),
        ({"type": "number", "minimum": 0.5, "maximum": 1}, PLACES),
        ({"type": "number", "exclusiveMaximum": 1}, {**PLACES, "minimum": -LARGEST_INTEGER}),
        ({"type": "number", "multipleOf": 0.5}, {"minimum": -LARGEST_INTEGER, "maximum": LARGEST_INTEGER}),
        ({"type": "number"}, {}),
        ({"type": "number", "minimum": 1e-9, "maximum": 2e-9}, {}),
        ({"type": "number", "enum": [6e23]}, {}),
        ({"type": "integer", "anyOf": [{"maximum": 3}, {"minimum": 5}]}, {}),
        ({"type": "string", "maxLength": 3}, {}),
        ({"minimum": 3}, {}),
    ],
    ids=str,
)
def test_numbers_get_an_end(schema: dict[str, Any], added: dict[str, Any]) -> None:
    assert bounded(schema) == {**schema, **added}
    assert bounded({"items": schema}) == {"items": {**schema, **added}}


def test_no_places_where_a_common_multiple_could_not_be_held() -> None:
    number = {"type": "number", "minimum": 0}
    assert "multipleOf" not in bounded({"allOf": [number, {"multipleOf": 100}]})["allOf"][0]
    assert "multipleOf" in bounded({"anyOf": [number, {"multipleOf": 100, "type": "integer"}]})["anyOf"][0]


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"properties": {"a": {"properties": {}}}}, {"properties": {"a": {"properties": {}, **SHUT}}, **SHUT}),
        ({"properties": {}, "additionalProperties": True}, {"properties": {}, "additionalProperties": True}),
        ({"properties": {}, "patternProperties": {"x": {}}}, {"properties": {}, "patternProperties": {"x": {}}}),
        (
            {"anyOf": [{"properties": {}}, {"type": "null"}]},
            {"anyOf": [{"properties": {}, **SHUT}, {"type": "null"}]},
        ),
        ({"type": "object"}, {"type": "object"}),
    ],
)
def test_objects_are_shut(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {}}}]},
        {"properties": {"a": {}}, "anyOf": [{"properties": {"b": {}}}, {"properties": {"c": {}}}]},
        {"$ref": "#/$defs/a", "properties": {"b": {}}, "$defs": {"a": {"properties": {"a": {}}}}},
    ],
)
def test_objects_that_are_put_together_are_not(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema
