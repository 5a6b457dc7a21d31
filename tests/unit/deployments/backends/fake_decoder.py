"""A decoder without a model, with llama.cpp's cache semantics: each cell is one token, owned by sequences."""

from collections.abc import Sequence

import numpy as np

from deployments.backends.base import Token
from deployments.backends.llama_batching import CellsExhausted, DecodeFailed
from deployments.backends.prefix_archive import State
from deployments.backends.token_batch import TokenBatch

VOCABULARY = 1000


def next_token(ids: Sequence[int]) -> int:
    """What the fake model says after `ids`: depends on every one of them and on their order."""
    state = 7
    for token in ids:
        state = (state * 31 + token + 1) % 1_000_003
    return state % VOCABULARY


def answer(prompt: Sequence[int], count: int) -> list[int]:
    """What a request alone must get."""
    ids = list(prompt)
    for _ in range(count):
        ids.append(next_token(ids))
    return ids[len(prompt) :]


class FakeDecoder:
    """Checks every position, and keeps the batches it has seen."""

    def __init__(self, cells: int, capacity: int = 64, *, reuses_prefixes: bool = True, sequences: int = 64) -> None:
        self.cells = cells
        self.reuses_prefixes = reuses_prefixes
        self.can_trim = True
        self.batch = TokenBatch(capacity)
        self.owned: list[list[tuple[int, int]]] = [[] for _ in range(sequences)]
        """Per sequence its cells: (cell number, token)."""
        self.rows: dict[int, int] = {}
        """Batch row → the token that its logits say."""
        self.sizes: list[int] = []
        self.failures: list[Exception] = []
        """Raised by the next decodes, one each."""
        self._fresh = 0

    @property
    def used(self) -> int:
        return len({cell for cells in self.owned for cell, _ in cells})

    def decode(self) -> None:
        if self.failures:
            raise self.failures.pop(0)
        if self.used + self.batch.size > self.cells:
            raise CellsExhausted
        self.sizes.append(self.batch.size)
        self.rows = {}
        for row in range(self.batch.size):
            cells = self.owned[self.batch.sequences[row]]
            if self.batch.positions[row] != len(cells):
                raise DecodeFailed(f"position {self.batch.positions[row]} after {len(cells)} tokens")
            cells.append((self._fresh, self._read(row)))
            self._fresh += 1
            if self.batch.outputs[row]:
                self.rows[row] = next_token([token for _, token in cells])

    def _read(self, row: int) -> int:
        """A token; or a row of media, whose one float stands for a token, too."""
        span = self.batch.span
        if span is None:
            return int(self.batch.tokens[row])
        if not span.causal and self.batch.size != len(span.rows):
            raise DecodeFailed(f"{self.batch.size} rows of a picture that has {len(span.rows)}")
        return int(span.rows[self.batch.positions[row] - span.start, 0])

    def trim(self, sequence: int, length: int) -> bool:
        if length and not self.can_trim:
            return False
        del self.owned[sequence][length:]
        return True

    def save(self, sequence: int) -> State:
        return State(np.array([token for _, token in self.owned[sequence]], np.int64).view(np.uint8))

    def load(self, sequence: int, state: State) -> bool:
        tokens = state.data.view(np.int64).tolist()
        if self.used + len(tokens) > self.cells:
            return False
        assert not self.owned[sequence]
        self.owned[sequence] = list(zip(range(self._fresh, self._fresh + len(tokens)), tokens, strict=True))
        self._fresh += len(tokens)
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        assert not self.owned[target]
        assert len(self.owned[source]) >= length
        self.owned[target] = self.owned[source][:length]


class FakeSampler:
    """Takes the token that the fake model says. `stop_at`: a token that ends the generation."""

    def __init__(self, decoder: FakeDecoder, stop_at: int | None = None) -> None:
        self._decoder = decoder
        self._stop_at = stop_at
        self.finished = False
        self.closed = False

    def next(self, row: int) -> Token | None:
        assert not self.closed
        token = self._decoder.rows[row]
        return None if token == self._stop_at else Token(token, b"")

    def close(self) -> None:
        self.closed = True
