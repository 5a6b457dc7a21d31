"""Vector stores: values by key, found by likeness of the keys.

Entries are in the database, so that every ingress answers alike. Each ingress searches its own copy of the keys, which
it brings up to date by the store's change number before each search.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from sqlalchemy import and_, case, delete, exists, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from api.records import Records, StoreEntryRow, StoreRow
from api.vectors import Vectors
from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEPT_CHANGES = 1000
"""A deletion is remembered for so many changes of its store; who has seen less than those reads the store anew."""
MEMORY = 1 << 30
"""Bytes that the copies of an ingress may take; the stores that were searched longest ago go first."""
MAX_NUMBERS = 1 << 22
"""Numbers in the keys of one answer: 40 MB of JSON."""
BATCH = 1000
"""Rows read at once."""

_INSERTS: dict[str, Callable[[type[Any]], sqlite.Insert | postgresql.Insert]] = {
    "sqlite": sqlite.insert,
    "postgresql": postgresql.insert,
}
"""Dialect → its INSERT, which knows ON CONFLICT."""


@dataclass(frozen=True, slots=True)
class Entries:
    """What was found."""

    keys: "Sequence[NDArray[np.float32]]"
    values: Sequence[str]
    similarities: Sequence[float] = ()
    """Of a search: cosines, descending."""


@dataclass(slots=True)
class _Copy:
    """A store's keys in this process."""

    vectors: Vectors = field(default_factory=Vectors)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Stores:
    """All vector stores. Keys are rows of float32 matrices, finite, without negative zeros.

    Every method raises NotReady when the database can't be used, and InvalidRequest for keys of another length than
    those of the store. A store is there when it has its first key, and takes keys of any length when it has none left.
    """

    def __init__(self, records: Records, memory: int = MEMORY) -> None:
        self._records = records
        self._memory = memory
        self._copies: OrderedDict[str, _Copy] = OrderedDict()

    async def set(self, store: str, keys: "NDArray[np.float32]", values: Sequence[str]) -> None:
        """Store values by key, each in place of the one that the key had."""
        await self._records.run(partial(_set, store=store, keys=keys, values=values))

    async def get(self, store: str, keys: "NDArray[np.float32]") -> Entries:
        """The keys that are there, in the order asked for, and their values."""
        return await self._records.run(partial(_get, store=store, keys=keys))

    async def delete(self, store: str, keys: "NDArray[np.float32]") -> None:
        """Delete keys. One that isn't there is none."""
        await self._records.run(partial(_delete, store=store, keys=keys))

    async def find(self, store: str, key: "NDArray[np.float32]", count: int) -> Entries:
        """Up to `count` keys that are most similar to `key`."""
        copy = self._copies.setdefault(store, _Copy())
        self._copies.move_to_end(store)
        async with copy.turn:
            found = await self._records.run(partial(_find, store=store, vectors=copy.vectors, key=key, count=count))
        self._forget()
        return found

    def _forget(self) -> None:
        """Let go of copies until the rest fits, and of those that hold nothing: any client can name a store."""
        used = sum(copy.vectors.nbytes for copy in self._copies.values())
        for name, copy in list(self._copies.items()):
            if (used > self._memory or not copy.vectors) and not copy.turn.locked():
                used -= copy.vectors.nbytes
                del self._copies[name]


# ---- transactions ----------------------------------------------------------------------------------------------------


def _set(session: Session, store: str, keys: "NDArray[np.float32]", values: Sequence[str]) -> None:
    dimension = keys.shape[1]
    insert = _INSERTS[session.get_bind().dialect.name]
    # First, for it locks the store: changes come one after the other.
    statement = insert(StoreRow).values(name=store, change=1, dimension=dimension)
    known = case((StoreRow.dimension == 0, statement.excluded.dimension), else_=StoreRow.dimension)
    change, expected = session.execute(
        statement.on_conflict_do_update(
            index_elements=[StoreRow.name], set_={"change": StoreRow.change + 1, "dimension": known}
        ).returning(StoreRow.change, StoreRow.dimension)
    ).one()
    _require_dimension(expected, dimension)
    rows = {
        digest: {"store": store, "digest": digest, "key": key.tobytes(), "value": value.encode(), "change": change}
        for digest, key, value in zip(_digests(keys), keys, values, strict=True)
    }
    written = insert(StoreEntryRow)
    columns = {name: written.excluded[name] for name in ("key", "value", "change")}
    session.execute(
        written.on_conflict_do_update(index_elements=["store", "digest"], set_=columns), list(rows.values())
    )


def _delete(session: Session, store: str, keys: "NDArray[np.float32]") -> None:
    bump = update(StoreRow).where(StoreRow.name == store, StoreRow.dimension > 0)
    row = session.execute(
        bump.values(change=StoreRow.change + 1).returning(StoreRow.change, StoreRow.dimension)
    ).one_or_none()
    if row is None:
        return
    change, dimension = row
    _require_dimension(dimension, keys.shape[1])
    of_store = StoreEntryRow.store == store
    session.execute(
        update(StoreEntryRow)
        .where(of_store, StoreEntryRow.digest.in_(_digests(keys)), StoreEntryRow.key.is_not(None))
        .values(key=None, value=None, change=change)
    )
    session.execute(
        delete(StoreEntryRow).where(
            of_store, StoreEntryRow.key.is_(None), StoreEntryRow.change <= change - KEPT_CHANGES
        )
    )
    left = exists().where(of_store, StoreEntryRow.key.is_not(None))
    session.execute(update(StoreRow).where(StoreRow.name == store, ~left).values(dimension=0))


def _get(session: Session, store: str, keys: "NDArray[np.float32]") -> Entries:
    dimension = session.scalar(select(StoreRow.dimension).where(StoreRow.name == store))
    if not dimension:
        return Entries((), ())
    _require_dimension(dimension, keys.shape[1])
    digests = _digests(keys)
    values = {digest: value for digest, _, value in _entries(session, store, digests)}
    there = [(key, values[digest]) for key, digest in zip(keys, digests, strict=True) if digest in values]
    return Entries([key for key, _ in there], [value for _, value in there])


def _find(session: Session, store: str, vectors: Vectors, key: "NDArray[np.float32]", count: int) -> Entries:
    import numpy as np

    _catch_up(session, store, vectors)
    if not vectors:
        return Entries((), ())
    _require_dimension(vectors.dimension, len(key))
    if min(count, len(vectors)) * vectors.dimension > MAX_NUMBERS:
        most = MAX_NUMBERS // vectors.dimension
        raise InvalidRequest(f"'topk': at most {most} of these keys, each {vectors.dimension} numbers.").at("topk")
    nearest = vectors.nearest(key, count)
    entries = {digest: rest for digest, *rest in _entries(session, store, [digest for digest, _ in nearest])}
    there = [(*entries[digest], similarity) for digest, similarity in nearest if digest in entries]
    return Entries(
        [np.frombuffer(found, "<f4") for found, _, _ in there],
        [value for _, value, _ in there],
        [similarity for _, _, similarity in there],
    )


def _catch_up(session: Session, store: str, vectors: Vectors) -> None:
    """Bring `vectors` to what the store is now."""
    # One statement, so that the number of the change and the entries are of the same moment.
    since = case((StoreRow.change - KEPT_CHANGES > vectors.seen, 0), else_=vectors.seen)
    newer = and_(StoreEntryRow.store == StoreRow.name, StoreEntryRow.change > since)
    rows = session.execute(
        select(StoreRow.change, StoreRow.dimension, StoreEntryRow.digest, StoreEntryRow.key)
        .join(StoreEntryRow, newer, isouter=True)
        .where(StoreRow.name == store)
        .execution_options(yield_per=BATCH)
    )
    now = 0
    for change, dimension, digest, key in rows:
        # Of what is too far behind, deletions may be forgotten; of another length, no key is left.
        if not now and (vectors.seen < change - KEPT_CHANGES or vectors.dimension != dimension):
            vectors.clear(dimension)
        now = change
        if key is not None:
            vectors.add(digest, key)
        elif digest is not None:
            vectors.remove(digest)
    vectors.seen = now


def _entries(session: Session, store: str, digests: Iterable[bytes]) -> list[tuple[bytes, Any, str]]:
    """Digest, key and value of those that are there."""
    rows = session.execute(
        select(StoreEntryRow.digest, StoreEntryRow.key, StoreEntryRow.value).where(
            StoreEntryRow.store == store, StoreEntryRow.digest.in_(digests), StoreEntryRow.key.is_not(None)
        )
    )
    return [(digest, key, (value or b"").decode()) for digest, key, value in rows]


def _digests(keys: "NDArray[np.float32]") -> list[bytes]:
    return [hashlib.sha256(key.tobytes()).digest() for key in keys]


def _require_dimension(expected: int, given: int) -> None:
    if given != expected:
        raise InvalidRequest(f"The keys of this store have {expected} numbers, and these have {given}.").at("keys")
