"""JSON Schema and grammars as a mask, on a vocabulary of single bytes."""

import json
import random
from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLTokenizer

from deployments.backends.base import Generate, Sampling
from deployments.errors import EngineError, InvalidRequest
from deployments.text.constraint import LONGEST_RUN_OF_DIGITS, TokenConstraint, grammar_of, json_grammar
from deployments.text.json_schema import SUPPORTED_KEYWORDS
from tests.random_schemas import random_schema

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


CLOSING = b'"}],'


def request(**constraint: Any) -> Generate:
    return Generate(tokens=[0], sampling=Sampling(), **constraint)


def sample(schema: dict[str, Any], seed: int = 0, most: int = 2000, liked: bytes = CLOSING, much: float = 2) -> str:
    """A random document that the constraint lets through. Closing characters are `liked`, so that it ends."""
    rng = np.random.default_rng(seed)
    constraint = TokenConstraint(TOKENIZER, json_grammar(schema))
    ids: list[int] = []
    while not constraint.finished and len(ids) < most:
        logits = rng.normal(size=TOKENIZER.vocab_size).astype(np.float32)
        logits[list(liked)] += much
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
        TokenConstraint(TOKENIZER, json_grammar(schema))
    assert caught.value.param == "response_format"
    assert words in caught.value.message or words == caught.value.param


def test_whitespace_is_bounded() -> None:
    constraint = TokenConstraint(TOKENIZER, json_grammar({"type": "object"}))
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
    one, other = TokenConstraint(TOKENIZER, json_grammar(PERSON)), TokenConstraint(TOKENIZER, json_grammar(PERSON))
    for token in text[:half]:
        one.accept(token)
    other.replay(text[:half])
    masks = [np.zeros(TOKENIZER.vocab_size, np.float32) for _ in range(2)]
    one.mask(masks[0])
    other.mask(masks[1])
    assert np.array_equal(*masks)


def test_a_random_schema_is_followed_or_refused() -> None:
    rng = random.Random(1)
    keywords = [*SUPPORTED_KEYWORDS, "not", "title"]
    values = [True, 1, -2.5, "a", "[", [], [{}], {}, {"a": {"type": "string"}}, None, ["string", "null"], "object"]
    for _ in range(300):
        schema = {rng.choice(keywords): rng.choice(values) for _ in range(rng.randint(1, 3))}
        with suppress(InvalidRequest):
            TokenConstraint(TOKENIZER, json_grammar(schema))


@pytest.mark.parametrize("seed", range(12))
def test_documents_of_random_schemas_are_valid(seed: int) -> None:
    schema = random_schema(seed)
    jsonschema.validate(json.loads(sample(schema, seed)), schema)


@pytest.mark.parametrize("digits", [b"0", b"9", b"0123456789.eE+-"], ids=bytes.decode)
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": "integer", "maximum": 5},
        {"type": "number"},
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": ["number", "string"], "maxLength": 3},
        {"type": "array", "items": {"type": "number", "minimum": -3}, "minItems": 2, "maxItems": 2},
        {"type": "object", "properties": {"a": True}, "required": ["a"], "additionalProperties": False},
    ],
    ids=str,
)
def test_who_likes_digits_comes_to_an_end(schema: dict[str, Any], digits: bytes) -> None:
    document = sample(schema, most=200, liked=digits, much=50)
    assert len(document) < 100
    jsonschema.validate(json.loads(document), schema)


def test_digits_in_strings_and_required_ones_are_not_cut() -> None:
    number = "1234567890" * 3
    schema = {"type": "array", "prefixItems": [{"type": "string"}, {"type": "number"}], "items": False, "minItems": 2}
    constraint = TokenConstraint(TOKENIZER, json_grammar(schema))
    constraint.replay(f'["\\\\\\"{number}", 0.{number[:LONGEST_RUN_OF_DIGITS]}'.encode())
    assert [chr(i) for i in np.flatnonzero(~constraint.forbidden(256))] == ["\t", "\n", "\r", " ", "E", "]", "e"]
    assert sample({"const": 10**25}, liked=b"]") == str(10**25)


def test_ids_beyond_the_vocabulary_are_forbidden() -> None:
    forbidden = TokenConstraint(TOKENIZER, json_grammar({"type": "null"})).forbidden(TOKENIZER.vocab_size + 40)
    assert np.flatnonzero(~forbidden).tolist() == [ord("n")]


def follows(constraint: TokenConstraint, text: str) -> bool:
    """Whether the whole text may be the output."""
    try:
        constraint.replay(text.encode())
    except EngineError:
        return False
    return not constraint.forbidden(TOKENIZER.vocab_size)[TOKENIZER.eos_token]


@pytest.mark.parametrize(
    ("text", "may"), [("yes, 12", True), ("no, 7", True), ("yes, ", False), ("yes,  1", False), ("perhaps, 1", False)]
)
@pytest.mark.parametrize(
    "grammar",
    [
        {"lark": 'start: ("yes" | "no") ", " /[0-9]+/'},
        {"grammar": 'root ::= ("yes" | "no") ", " [0-9]+'},
    ],
    ids=["lark", "gbnf"],
)
def test_grammars(grammar: dict[str, str], text: str, may: bool) -> None:
    wanted = grammar_of(request(**grammar))
    assert wanted is not None
    assert follows(TokenConstraint(TOKENIZER, wanted), text) is may


def test_gbnf_is_left_to_engines_that_read_it() -> None:
    assert grammar_of(request(grammar='root ::= "a"'), gbnf=False) is None
    assert grammar_of(request()) is None


@pytest.mark.parametrize("gbnf", ['root ::= "a', 'toor ::= "a"', "root ::= a", "root ::= " + "(" * 5000, "x"])
def test_bad_gbnf_is_the_clients_mistake(gbnf: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        grammar_of(request(grammar=gbnf))
    assert caught.value.param == "grammar"


def test_a_bad_grammar_is_said_where_it_comes_from() -> None:
    wanted = grammar_of(request(lark="start: nowhere"))
    assert wanted is not None and "nowhere" in wanted.problem()
    with pytest.raises(InvalidRequest, match="nowhere") as caught:
        TokenConstraint(TOKENIZER, wanted)
    assert caught.value.param == "tools"
