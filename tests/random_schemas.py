"""Random JSON Schemas whose documents are short: what a constraint must be able to follow to the end."""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Schema = dict[str, Any]

DEPTH = 3
PATTERNS = (
    "^[A-Z]{2}-[0-9]{4}$",
    "^(red|green|blue)( light)?$",
    "^#[0-9a-f]{6}$",
    "^[a-z]+$",
    "^[A-Z][a-z]{1,7}$",
    "[0-9]{2}",
    r"^\d{1,3}(\.\d{1,3}){3}$",
    "^[^@ ]{1,6}@example\\.(com|org)$",
)
WORDS = ("name", "size", "kind", "value", "items", "notes", "color", "left", "right", "id", "when", "über", "a b", 'q"')
ENUM_VALUES: Sequence[Any] = ("small", "medium", "large", "", "ä\n", 'say "hi"', 0, 1, -7, 2.5, True, False, None)


def random_schema(seed: int) -> Schema:
    """An object of at most DEPTH levels, the same for the same seed."""
    rng = random.Random(seed)
    names = [f"d{i}" for i in range(rng.randint(0, 2))]
    definitions = {name: _schema(rng, DEPTH - 1, ()) for name in names}
    root = _object(rng, 1, names)
    return {**root, "$defs": definitions} if definitions else root


def _schema(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    """`depth`: levels above it. `names`: definitions it may refer to, which go as deep as a whole level."""
    if names and depth < DEPTH and rng.random() < 0.3:
        return {"$ref": f"#/$defs/{rng.choice(names)}"}
    kinds = LEAVES if depth >= DEPTH or rng.random() < 0.5 else BRANCHES
    return rng.choice(list(kinds.values()))(rng, depth + 1, names)


def _object(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    properties = {name: _schema(rng, depth, names) for name in rng.sample(WORDS, rng.randint(1, 4))}
    required = [name for name in properties if rng.random() < 0.7]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    most = rng.randint(1, 3)
    return {
        "type": "array",
        "items": _schema(rng, depth, names),
        "minItems": rng.randint(0, most),
        "maxItems": most,
    }


def _any_of(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    return {"anyOf": [_schema(rng, depth, names), rng.choice([{"type": "null"}, {"type": "boolean"}])]}


def _string(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    most = rng.randint(1, 16)
    return {"type": "string", "minLength": rng.randint(0, most), "maxLength": most}


def _pattern(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    return {"type": "string", "pattern": rng.choice(PATTERNS), "maxLength": 16}


def _integer(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    low = rng.randint(-1000, 1000)
    bounds: Sequence[Schema] = (
        {"minimum": low, "maximum": low + rng.randint(0, 2000)},
        {"exclusiveMinimum": low, "exclusiveMaximum": low + 50, "multipleOf": rng.randint(1, 7)},
        {"minimum": low},
        {"maximum": low},
        {},
    )
    return {"type": "integer", **rng.choice(bounds)}


def _number(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    low = round(rng.uniform(-100, 100), rng.randint(0, 3))
    bounds: Sequence[Schema] = (
        {"minimum": low, "maximum": low + rng.randint(1, 50)},
        {"exclusiveMinimum": 0, "exclusiveMaximum": 1},
        {"minimum": 0, "maximum": 10, "multipleOf": 0.25},
        {"minimum": low},
        {"exclusiveMaximum": low},
    )
    return {"type": "number", **rng.choice(bounds)}


def _enum(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    return {"enum": rng.sample(ENUM_VALUES, rng.randint(1, 4))}


def _const(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    return {"const": rng.choice(ENUM_VALUES)}


def _boolean(rng: random.Random, depth: int, names: Sequence[str]) -> Schema:
    return {"type": rng.choice(["boolean", "null", ["boolean", "null"]])}


Kind = Callable[[random.Random, int, Sequence[str]], Schema]
BRANCHES: Mapping[str, Kind] = {"object": _object, "array": _array, "anyOf": _any_of}
LEAVES: Mapping[str, Kind] = {
    "string": _string,
    "pattern": _pattern,
    "integer": _integer,
    "number": _number,
    "enum": _enum,
    "const": _const,
    "boolean": _boolean,
}
