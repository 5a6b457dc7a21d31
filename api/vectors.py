"""The keys of one vector store in memory, searched exactly."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENTRY_BYTES = 250
"""What a digest takes in the list and the dictionary, about."""


class Vectors:
    """Keys of one length by their digests. Not safe between threads."""

    def __init__(self) -> None:
        self.seen = 0
        """Number of the last change of the store that is in here; 0: none."""
        self.dimension = 0
        self._keys: NDArray[np.float32] | None = None
        """capacity × dimension; the first rows are in use."""
        self._digests: list[bytes] = []
        """Of the rows in use."""
        self._rows: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._digests)

    @property
    def nbytes(self) -> int:
        return (0 if self._keys is None else self._keys.nbytes) + len(self) * ENTRY_BYTES

    def clear(self, dimension: int) -> None:
        """Forget all keys; the next ones have `dimension` numbers."""
        self.dimension, self._keys = dimension, None
        self._digests, self._rows = [], {}

    def add(self, digest: bytes, key: bytes) -> None:
        """`key`: float32. A key that is there stays: its digest says that it is the same."""
        import numpy as np  # with the first key: most servers never have any

        if digest in self._rows:
            return
        row = len(self)
        if self._keys is None or row == len(self._keys):
            grown = np.empty((max(64, 2 * row), self.dimension), np.float32)
            if self._keys is not None:
                grown[:row] = self._keys
            self._keys = grown
        self._keys[row] = np.frombuffer(key, "<f4")
        self._digests.append(digest)
        self._rows[digest] = row

    def remove(self, digest: bytes) -> None:
        """Put the last row in the place of this one; nothing where it isn't there."""
        row = self._rows.pop(digest, None)
        if row is None or self._keys is None:
            return
        last = self._digests.pop()
        if last != digest:
            self._keys[row] = self._keys[len(self)]
            self._digests[row] = last
            self._rows[last] = row

    def nearest(self, key: "NDArray[np.float32]", count: int) -> list[tuple[bytes, float]]:
        """Digests of up to `count` keys with their cosine similarities to `key`, the most similar first.

        A vector of zeros points nowhere: to all others its similarity is 0.
        """
        count = min(count, len(self))
        if not count or self._keys is None:
            return []
        if not key.any():
            return [(digest, 0.0) for digest in self._digests[:count]]
        from usearch.compiled import MetricKind
        from usearch.index import search

        # Kept to one thread: an ingress has more to do. 45 ms for 100,000 keys of 384 numbers on the development
        # machine; other requests go on meanwhile, for the search holds no GIL.
        found = search(self._keys[: len(self)], key, count, MetricKind.Cos, exact=True, threads=1)
        similarities = (1.0 - found.distances).clip(-1.0, 1.0).tolist()
        return [(self._digests[row], value) for row, value in zip(found.keys.tolist(), similarities, strict=True)]
