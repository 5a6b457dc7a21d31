"""Vector stores over a database of their own; with PostgreSQL in tests/cluster/test_postgres.py."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from api import stores as stores_module
from api.records import Records, StoreEntryRow
from api.schemas.store import MAX_DIMENSION, MAX_KEYS, to_keys
from api.stores import Entries, Stores
from deployments.errors import InvalidRequest
from tests.unit.http_clients import AppFactory, http_client

KEYS = [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [-0.7, 0.8, 0.9]]
VALUES = ["test1", "test2", "test3"]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/manta.db"


@pytest.fixture
def records(url: str) -> Iterator[Records]:
    records = Records(url)
    yield records
    records.close()


@pytest.fixture
def others_records(url: str) -> Iterator[Records]:
    records = Records(url)
    yield records
    records.close()


@pytest.fixture
def stores(records: Records) -> Stores:
    return Stores(records)


@pytest.fixture
def others(others_records: Records) -> Stores:
    """Those of another ingress."""
    return Stores(others_records)


async def put(stores: Stores, keys: list[list[float]], values: list[str], store: str = "s") -> None:
    await stores.set(store, await to_keys(keys), values)


async def find(stores: Stores, key: list[float], count: int = 100, store: str = "s") -> Entries:
    return await stores.find(store, (await to_keys([key]))[0], count)


async def remove(stores: Stores, keys: list[list[float]], store: str = "s") -> None:
    await stores.delete(store, await to_keys(keys))


# ---- one ingress -----------------------------------------------------------------------------------------------------


async def test_values_come_back_by_key(stores: Stores) -> None:
    await put(stores, KEYS, VALUES)
    found = await stores.get("s", await to_keys([KEYS[2], [9, 9, 9], KEYS[0], KEYS[2]]))
    assert list(found.values) == ["test3", "test1", "test3"], "what is there, in the order asked for"
    assert np.array_equal(found.keys, np.float32([KEYS[2], KEYS[0], KEYS[2]]))


async def test_a_key_has_one_value_the_last(stores: Stores) -> None:
    await put(stores, [[0.0, 1], [1, 0], [-0.0, 1]], ["a", "b", "c"])
    assert list((await stores.get("s", await to_keys([[0, 1]]))).values) == ["c"], "-0 is 0"
    await put(stores, [[1, 0]], ["d"])
    assert list((await find(stores, [1, 0])).values) == ["d", "c"]


async def test_every_text_is_a_value(stores: Stores) -> None:
    texts = ["", "\0", "Grüße 🐟", "x" * 100_000]
    await put(stores, [[1], [2], [3], [4]], texts)
    assert list((await stores.get("s", await to_keys([[1], [2], [3], [4]]))).values) == texts


async def test_stores_are_apart(stores: Stores) -> None:
    await put(stores, [[1, 0]], ["here"])
    await put(stores, [[1, 0, 0]], ["there"], store="")
    assert list((await find(stores, [1, 0])).values) == ["here"]
    assert list((await find(stores, [1, 0, 0], store="")).values) == ["there"]
    await remove(stores, [[1, 0]])
    assert list((await find(stores, [1, 0, 0], store="")).values) == ["there"]


async def test_a_store_that_is_not_there_is_empty(stores: Stores) -> None:
    await remove(stores, [[1, 0]])
    assert not (await find(stores, [1, 0])).keys
    assert not (await stores.get("s", await to_keys([[1, 2, 3]]))).keys


async def test_deleting_what_is_not_there_is_no_error(stores: Stores) -> None:
    await put(stores, KEYS, VALUES)
    await remove(stores, [[9, 9, 9], KEYS[0], KEYS[0]])
    assert list((await find(stores, KEYS[1])).values) == ["test2", "test3"]


async def test_an_empty_store_takes_keys_of_another_length(stores: Stores, others: Stores) -> None:
    await put(stores, KEYS, VALUES)
    assert len((await find(others, KEYS[0])).keys) == 3
    await remove(stores, KEYS)
    assert not (await find(stores, KEYS[0])).keys
    await put(stores, [[1, 0]], ["two"])
    assert list((await find(stores, [1, 1])).values) == ["two"]
    assert list((await find(others, [1, 1])).values) == ["two"]


@pytest.mark.parametrize("what", ["set", "get", "find", "delete"])
async def test_keys_of_another_length_are_refused_with_both_numbers(stores: Stores, what: str) -> None:
    await put(stores, KEYS, VALUES)
    calls: dict[str, Any] = {
        "set": lambda: put(stores, [[1, 2]], ["a"]),
        "get": lambda: _get(stores, [[1, 2]]),
        "find": lambda: find(stores, [1, 2]),
        "delete": lambda: remove(stores, [[1, 2]]),
    }
    with pytest.raises(InvalidRequest, match=r"3 numbers.* 2"):
        await calls[what]()
    assert len((await find(stores, KEYS[0])).keys) == 3


async def _get(stores: Stores, keys: list[list[float]]) -> Entries:
    return await stores.get("s", await to_keys(keys))


async def test_found_as_numpy_finds(stores: Stores) -> None:
    random = np.random.default_rng(7)
    keys = random.standard_normal((500, 33), np.float32)
    await stores.set("s", keys, [str(i) for i in range(500)])
    await stores.delete("s", keys[100:200])
    left = np.delete(np.arange(500), np.s_[100:200])
    for key in random.standard_normal((20, 33), np.float32):
        cosines = keys[left] @ key / np.linalg.norm(keys[left], axis=1) / np.linalg.norm(key)
        best = np.argsort(-cosines)[:10]
        found = await stores.find("s", key, 10)
        assert list(found.values) == [str(i) for i in left[best]]
        assert np.allclose(found.similarities, cosines[best], atol=1e-5)
        assert np.array_equal(found.keys, keys[left[best]])


async def test_similarities_are_cosines_and_never_nan(stores: Stores) -> None:
    keys = [[1e30, 0], [1e-20, 0], [-5, 0], [0, 2], [0, 0]]
    await put(stores, keys, ["huge", "tiny", "against", "across", "nowhere"])
    found = await find(stores, [3, 0])
    similarity = dict(zip(found.values, found.similarities, strict=True))
    assert similarity == pytest.approx({"huge": 1, "tiny": 1, "against": -1, "across": 0, "nowhere": 0})
    assert found.similarities == sorted(found.similarities, reverse=True)
    assert set((await find(stores, [0, 0])).similarities) == {0.0}


async def test_an_answer_has_an_end(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores_module, "MAX_NUMBERS", 6)
    await put(stores, KEYS, VALUES)
    with pytest.raises(InvalidRequest, match="at most 2 of these keys"):
        await find(stores, KEYS[0], 3)
    assert len((await find(stores, KEYS[0], 2)).keys) == 2


# ---- two ingresses ---------------------------------------------------------------------------------------------------


async def test_another_ingress_sees_every_change(stores: Stores, others: Stores) -> None:
    random = np.random.default_rng(3)
    truth: dict[bytes, str] = {}
    pool = random.standard_normal((60, 4), np.float32)
    for step in range(40):
        writer = (stores, others)[step % 2]
        some = pool[random.choice(60, 8, replace=False)]
        if random.random() < 0.6:
            await writer.set("s", some, [f"{step}.{i}" for i in range(8)])
            truth |= {key.tobytes(): f"{step}.{i}" for i, key in enumerate(some)}
        else:
            await writer.delete("s", some)
            for key in some:
                truth.pop(key.tobytes(), None)
        for reader in (stores, others):
            found = await reader.find("s", pool[0], 100)
            assert dict(zip((key.tobytes() for key in found.keys), found.values, strict=True)) == truth


async def test_two_that_write_at_once_lose_nothing(stores: Stores, others: Stores) -> None:
    writes = [put((stores, others)[i % 2], [[i, 1], [i, 2]], [f"{i}", f"{i}!"]) for i in range(60)]
    searches = [find((stores, others)[i % 2], [1, 1]) for i in range(20)]
    await asyncio.gather(*writes, *searches)
    for one in (stores, others):
        assert len((await find(one, [1, 1], 1000)).keys) == 120


async def test_deletions_are_forgotten_and_yet_seen(
    stores: Stores, others: Stores, records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was away for longer than a deletion is remembered reads the store anew."""
    monkeypatch.setattr(stores_module, "KEPT_CHANGES", 3)
    await put(stores, [[i, 1] for i in range(1, 11)], ["v"] * 10)
    assert len((await find(others, [1, 1])).keys) == 10
    for i in range(1, 9):
        await remove(stores, [[i, 1]])
    assert await records.run(lambda session: session.query(StoreEntryRow).count()) == 2 + 3, "some deletions are kept"
    assert [key.tolist() for key in (await find(others, [0, 1])).keys] == [[9, 1], [10, 1]]
    assert [key.tolist() for key in (await find(stores, [0, 1])).keys] == [[9, 1], [10, 1]]


async def test_only_so_much_is_kept_in_memory(records: Records) -> None:
    stores = Stores(records, memory=100_000)
    for name in ("a", "b", "c"):
        await stores.set(name, np.random.default_rng(1).standard_normal((100, 100), np.float32), ["v"] * 100)
        assert len((await find(stores, [1.0] * 100, store=name)).keys) == 100
    assert list(stores._copies) == ["c"], "the one that was searched last"
    assert len((await find(stores, [1.0] * 100, store="a")).keys) == 100
    await find(stores, [1], store="is not there")
    assert "is not there" not in stores._copies


# ---- the routes ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def client(make_app: AppFactory) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(make_app()) as client:
        yield client


async def test_localais_assertions(client: httpx.AsyncClient) -> None:
    """localai.md, 7.2: set three, get them, delete the first, find the others."""
    answer = await client.post("/stores/set", json={"keys": KEYS, "values": VALUES})
    assert (answer.status_code, answer.content) == (200, b"")
    got = (await client.post("/stores/get", json={"keys": KEYS})).json()
    assert got == {"keys": KEYS, "values": VALUES}, "the very numbers that were sent"
    answer = await client.post("/stores/delete", json={"keys": KEYS[:1]})
    assert (answer.status_code, answer.content) == (200, b"")
    found = (await client.post("/stores/find", json={"key": KEYS[0], "topk": 2})).json()
    assert dict(zip(found["values"], found["keys"], strict=True)) == {"test2": KEYS[1], "test3": KEYS[2]}
    assert all(-1 <= similarity <= 1 for similarity in found["similarities"])
    assert found["similarities"] == sorted(found["similarities"], reverse=True)


async def test_an_answer_with_nothing_in_it(client: httpx.AsyncClient) -> None:
    body = {"store": "none", "key": [1], "keys": [[1]], "topk": 1.0}
    assert (await client.post("/stores/get", json=body)).json() == {"keys": [], "values": []}
    assert (await client.post("/stores/find", json=body)).json() == {"keys": [], "values": [], "similarities": []}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"keys": []}, "keys"),
        ({"keys": [1.0]}, "keys[0]"),
        ({"keys": [[1], []]}, "keys[1]"),
        ({"keys": [[]]}, "keys[0]"),
        ({"keys": [[1], [1, 2]]}, "keys[1]"),
        ({"keys": [[1], ["1"]]}, "keys[1]"),
        ({"keys": [[1], [None]]}, "keys[1]"),
        ({"keys": [[1], [True]]}, "keys[1]"),
        ({"keys": [[1], [[1]]]}, "keys[1]"),
        ({"keys": [[1], [1e39]]}, "keys[1]"),
        ({"keys": "[[1]]"}, "keys"),
        ({"keys": [[0.5] * (MAX_DIMENSION + 1)]}, "keys[0]"),
        ({"keys": [[0.5]] * (MAX_KEYS + 1)}, "keys"),
        ({}, "keys"),
        ({"keys": [[1]], "store": "x" * 257}, "store"),
        ({"keys": [[1]], "store": "\0"}, "store"),
        ({"keys": [[1]], "store": 1}, "store"),
    ],
)
@pytest.mark.parametrize("route", ["set", "get", "delete"])
async def test_keys_that_are_none(client: httpx.AsyncClient, route: str, body: dict[str, Any], param: str) -> None:
    values = {"values": ["v"] * len(body.get("keys", ""))}
    answer = await client.post(f"/stores/{route}", json=values | body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e400"])
async def test_numbers_that_json_has_not(client: httpx.AsyncClient, literal: str) -> None:
    answer = await client.post("/stores/get", content=f'{{"keys": [[{literal}]]}}')
    assert answer.status_code == 400


@pytest.mark.parametrize("values", [[], ["a"], ["a", "b", "c"], ["a", 1], None])
async def test_there_is_a_value_for_each_key(client: httpx.AsyncClient, values: object) -> None:
    answer = await client.post("/stores/set", json={"keys": [[1], [2]], "values": values})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("values")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"key": [1]}, "topk"),
        ({"key": [1], "topk": 0}, "topk"),
        ({"key": [1], "topk": 10_001}, "topk"),
        ({"key": [], "topk": 1}, "key"),
        ({"key": [[1]], "topk": 1}, "key"),
        ({"key": [1e39], "topk": 1}, "key"),
        ({"topk": 1}, "key"),
    ],
)
async def test_searches_that_are_none(client: httpx.AsyncClient, body: dict[str, Any], param: str) -> None:
    answer = await client.post("/stores/find", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


async def test_the_largest_numbers_of_json(client: httpx.AsyncClient) -> None:
    key = [2**63, -(2**63), 3.4e38, 1e-45, 0]
    assert (await client.post("/stores/set", json={"keys": [key], "values": ["v"]})).status_code == 200
    found = orjson.loads((await client.post("/stores/get", json={"keys": [key]})).content)
    assert found["keys"][0] == pytest.approx(key)
