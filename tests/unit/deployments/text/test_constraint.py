"""JSON Schema as a mask, on a vocabulary of single bytes."""

import json
import random
from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLTokenizer

from deployments.errors import InvalidRequest, UnsupportedParameter
from deployments.text.constraint import ANNOTATIONS, SUPPORTED_KEYWORDS, JsonSchemaConstraint

TOKENIZER = LLTokenizer("byte")
PERSON = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "Person",
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8, "pattern": "^[A-Z][a-z]+$"},
        "age": {"type": "integer", "minimum": 0, "exclusiveMaximum": 130},
        "tags": {"type": "array", "items": {"enum": ["x", "y", 3, None]}, "minItems": 1, "maxItems": 3},
        "friend": {"anyOf": [{"$ref": "#/$defs/friend"}, {"type": "null"}]},
    },
    "required": ["name", "age", "tags", "friend"],
    "additionalProperties": False,
    "$defs": {
        "friend": {
            "type": "object",
            "properties": {"kind": {"const": "friend"}, "grid": {"$ref": "#/$defs/grid"}},
            "required": ["kind", "grid"],
            "additionalProperties": False,
        },
        "grid": {
            "type": "array",
            "minItems": 1,
            "maxItems": 2,
            "items": {"type": "array", "maxItems": 2, "items": {"type": "number", "multipleOf": 0.5, "maximum": 9}},
        },
    },
}


def sample(schema: dict[str, Any], seed: int = 0, most: int = 2000) -> str:
    """A random document that the constraint lets through. Closing characters are favoured, so that it ends."""
    rng = np.random.default_rng(seed)
    constraint = JsonSchemaConstraint(TOKENIZER, schema)
    ids: list[int] = []
    while not constraint.finished and len(ids) < most:
        logits = rng.normal(size=TOKENIZER.vocab_size).astype(np.float32)
        logits[list(b'"}],')] += 2
        constraint.mask(logits)
        token = int(logits.argmax())
        if token == TOKENIZER.eos_token:
            break
        constraint.accept(token)
        ids.append(token)
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("seed", range(5))
def test_random_documents_are_valid(seed: int) -> None:
    jsonschema.validate(json.loads(sample(PERSON, seed)), PERSON)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "patternProperties": {"^a[0-9]$": {"type": "null"}}, "additionalProperties": False},
        {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "boolean"}]},
        {"allOf": [{"type": "integer", "minimum": 3}, {"type": "integer", "maximum": 5}]},
        {"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": False, "minItems": 2},
        {"type": "string", "format": "date"},
        {"type": "integer", "minimum": 0, "exclusiveMinimum": True, "maximum": 9},
        {"definitions": {"n": {"type": "integer", "maximum": 99, "minimum": -99}}, "$ref": "#/definitions/n"},
        {"type": "object", "properties": {"x": {"type": "null"}}, "minProperties": 1, "additionalProperties": False},
        {"type": ["integer", "null"], "minimum": 10, "maximum": 20, "uniqueItems": False, "x-order": 1},
    ],
    ids=lambda schema: next(iter(schema)) + "-" + str(len(str(schema))),
)
def test_every_kind_of_keyword(schema: dict[str, Any]) -> None:
    draft = jsonschema.Draft4Validator if schema.get("exclusiveMinimum") is True else jsonschema.Draft202012Validator
    for seed in range(10):
        draft(schema, format_checker=jsonschema.FormatChecker()).validate(json.loads(sample(schema, seed)))


def test_unsupported_keywords_are_all_named_wherever_they_stand() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "array", "uniqueItems": True}, "b": {"anyOf": [{"not": {"type": "string"}}]}},
        "$defs": {"c": {"if": {}, "then": {}}},
        "dependentRequired": {"a": ["b"]},
    }
    with pytest.raises(UnsupportedParameter) as caught:
        JsonSchemaConstraint(TOKENIZER, schema)
    assert caught.value.param == "response_format"
    for name in ("uniqueItems", "not", "if", "then", "dependentRequired"):
        assert f"`{name}`" in caught.value.message


def test_names_and_values_that_look_like_keywords_are_not() -> None:
    schema = {
        "type": "object",
        "properties": {"not": {"type": "null"}, "if": {"const": {"uniqueItems": True}}, "title": {"enum": ["then"]}},
        "required": ["not", "if", "title"],
        "additionalProperties": False,
        "default": {"else": 1},
        "$defs": {"contains": {"type": "string"}},
    }
    assert json.loads(sample(schema)) == {"not": None, "if": {"uniqueItems": True}, "title": "then"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "strin"}, "strin"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum"),
        ({"$ref": "#/$defs/nowhere"}, "nowhere"),
        ({"type": "string", "pattern": "^(?=a)b"}, "look-around"),
        ({"type": "string", "format": "iri"}, "iri"),
        ({"properties": 3}, "response_format"),
    ],
)
def test_a_bad_schema_is_the_clients_mistake(schema: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        JsonSchemaConstraint(TOKENIZER, schema)
    assert caught.value.param == "response_format"
    assert words in caught.value.message or words == caught.value.param


def test_a_schema_nested_without_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(3000):
        schema = {"items": schema}
    with pytest.raises(InvalidRequest, match="deep"):
        JsonSchemaConstraint(TOKENIZER, schema)


def test_whitespace_is_bounded() -> None:
    constraint = JsonSchemaConstraint(TOKENIZER, {"type": "object"})
    constraint.accept(ord("{"))
    for _ in range(16):
        constraint.accept(ord(" "))
    logits = np.zeros(TOKENIZER.vocab_size, np.float32)
    constraint.mask(logits)
    assert logits[ord(" ")] == -np.inf
    assert logits[ord('"')] == 0


def test_replay_leads_to_the_same_place() -> None:
    text = sample(PERSON, 3).encode()
    half = len(text) // 2
    one, other = JsonSchemaConstraint(TOKENIZER, PERSON), JsonSchemaConstraint(TOKENIZER, PERSON)
    for token in text[:half]:
        one.accept(token)
    other.replay(text[:half])
    masks = [np.zeros(TOKENIZER.vocab_size, np.float32) for _ in range(2)]
    one.mask(masks[0])
    other.mask(masks[1])
    assert np.array_equal(*masks)


def test_no_keyword_is_both_obeyed_and_ignored() -> None:
    assert not SUPPORTED_KEYWORDS.keys() & ANNOTATIONS


def test_a_random_schema_is_followed_or_refused() -> None:
    rng = random.Random(1)
    keywords = [*SUPPORTED_KEYWORDS, "not", "title"]
    values = [True, 1, -2.5, "a", "[", [], [{}], {}, {"a": {"type": "string"}}, None, ["string", "null"], "object"]
    for _ in range(300):
        schema = {rng.choice(keywords): rng.choice(values) for _ in range(rng.randint(1, 3))}
        with suppress(InvalidRequest):
            JsonSchemaConstraint(TOKENIZER, schema)
