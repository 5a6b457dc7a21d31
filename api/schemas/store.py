"""Vector stores on the wire, as LocalAI has them."""

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, WithJsonSchema

from api.schemas.common import Integer, WireModel
from api.stores import Entries
from api.validation import kind
from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAX_KEYS = 10_000
"""Of one request."""
MAX_DIMENSION = 16_384
"""Numbers in a key."""
MAX_NAME = 256


def _listed(value: object) -> object:
    """Only that it is an array: millions of numbers are looked at off the event loop."""
    if not isinstance(value, list):
        raise ValueError(f"expected an array, but got {kind(value)}")
    if not value:
        raise ValueError("the array is empty")
    return value


def _storable(name: str) -> str:
    if "\0" in name:
        raise ValueError("expected a name without NUL")
    return name


_KEY = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": MAX_DIMENSION}
_KEYS = {"type": "array", "items": _KEY, "minItems": 1, "maxItems": MAX_KEYS}

Key = Annotated[Any, BeforeValidator(_listed), WithJsonSchema(_KEY)]
Keys = Annotated[Any, BeforeValidator(_listed), WithJsonSchema(_KEYS)]


class StoreRequest(WireModel):
    store: Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_storable)] = ""
    """Name of the store; there is one without a name."""


class StoresSet(StoreRequest):
    keys: Keys
    """Vectors, all of the length that the store's keys have."""
    values: list[str]
    """As many as keys."""


class StoresDelete(StoreRequest):
    keys: Keys


class StoresGet(StoreRequest):
    keys: Keys


class StoresFind(StoreRequest):
    key: Key
    topk: Annotated[Integer, Field(ge=1, le=MAX_KEYS)]
    """The most entries to find."""


class StoresGetResponse(BaseModel):
    keys: list[list[float]]
    values: list[str]


class StoresFindResponse(StoresGetResponse):
    similarities: list[float]
    """Cosines, from -1 to 1, descending."""


async def to_keys(rows: list[Any], field: str = "keys") -> "NDArray[np.float32]":
    """One row for each key. Raises InvalidRequest that names the wrong one."""
    return await asyncio.to_thread(_matrix, rows, field)


async def to_key(row: list[Any]) -> "NDArray[np.float32]":
    key: NDArray[np.float32] = (await asyncio.to_thread(_matrix, [row], "key"))[0]
    return key


def require_one_each(keys: list[Any], values: list[str]) -> None:
    """Raise InvalidRequest unless there are as many values as keys."""
    if len(keys) != len(values):
        raise InvalidRequest(f"'values': expected one for each of {len(keys)} keys, got {len(values)}.").at("values")


async def to_json(entries: Entries, *, similarities: bool = False) -> bytes:
    """The body of an answer. Written in a thread, a key at a time: a long answer makes no other request wait."""
    return await asyncio.to_thread(_json, entries, similarities)


def _json(entries: Entries, similarities: bool) -> bytes:
    # As float32, a number has the digits that tell it apart from its neighbours: 0.1 comes back as 0.1.
    keys = b",".join(orjson.dumps(key, option=orjson.OPT_SERIALIZE_NUMPY) for key in entries.keys)
    rest = {"values": entries.values} | ({"similarities": entries.similarities} if similarities else {})
    return b'{"keys":[' + keys + b"]," + orjson.dumps(rest)[1:]


def _matrix(rows: list[Any], field: str) -> "NDArray[np.float32]":
    import numpy as np  # with the first keys: whoever only reads these routes needs none

    if len(rows) > MAX_KEYS:
        raise InvalidRequest(f"'{field}': expected at most {MAX_KEYS}, got {len(rows)}.").at(field)
    dimension = len(rows[0]) if isinstance(rows[0], list) else 0
    matrix = np.empty((len(rows), min(dimension, MAX_DIMENSION)), np.float32)
    for index, row in enumerate(rows):
        if mistake := _mistake(row, dimension):
            place = field if field == "key" else f"{field}[{index}]"
            raise InvalidRequest(f"'{place}': {mistake}.").at(place)
        with np.errstate(over="ignore"):
            matrix[index] = row
    finite = np.isfinite(matrix).all(axis=1)
    if not finite.all():
        place = field if field == "key" else f"{field}[{int(finite.argmin())}]"
        raise InvalidRequest(f"'{place}': a number is beyond a float32.").at(place)
    matrix += 0.0  # -0.0 becomes 0.0: equal keys have equal bytes
    return matrix


def _mistake(row: Any, dimension: int) -> str:
    """What is wrong with a key; empty: nothing. `dimension`: the length of the first one."""
    if not isinstance(row, list):
        return f"expected an array of numbers, got {kind(row)}"
    if not row:
        return "the array is empty"
    if len(row) > MAX_DIMENSION:
        return f"expected at most {MAX_DIMENSION} numbers, got {len(row)}"
    if len(row) != dimension:
        return f"has {len(row)} numbers, and the first key has {dimension}"
    if others := set(map(type, row)) - {float, int}:  # at C's speed
        return f"expected numbers, got {kind(next(value for value in row if type(value) in others))}"
    return ""
