"""Encoders without a model, for tests and load work: rows that say which bytes an input has.

A token is a byte. What they are told comes in the config's `options`, each `key:value`, beside those of `echo` that
concern loading: `delay` (seconds a batch takes), `token_delay` (seconds for each of its tokens, padding included),
`fail_on` (a text: batches that hold it fail), `width` (of a row), `batch_tokens` (of a batch).
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from deployments.backends.base import Progress, Tokens
from deployments.backends.echo import BYTES, load_options
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _EchoEncoder:
    """What the two have in common."""

    parallel_batches = 1
    width = 1

    def __init__(self, max_length: int, options: dict[str, str]) -> None:
        self.max_length = max_length
        self.batch_tokens = int(options.get("batch_tokens", 4096))
        self._delay = float(options.get("delay", 0))
        self._token_delay = float(options.get("token_delay", 0))
        self._fail_on = list(options.get("fail_on", "").encode())

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> Self:
        return cls(config.context_size or 8192, load_options(config, progress))

    def encode(self, batch: Sequence[Tokens]) -> "NDArray[np.float32]":
        time.sleep(self._delay + self._token_delay * len(batch) * max(len(tokens.ids) for tokens in batch))
        if any(self._fails(tokens.ids) for tokens in batch):
            raise EngineError("echo was told to fail on this input")
        return np.stack([self._row(tokens) for tokens in batch]).astype(np.float32)

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """Nothing to free."""

    def _row(self, tokens: Tokens) -> "NDArray[np.float64]":
        raise NotImplementedError

    def _fails(self, ids: list[int]) -> bool:
        size = len(self._fail_on)
        return size > 0 and any(ids[i : i + size] == self._fail_on for i in range(len(ids) - size + 1))

    def _fitted(self, ids: list[int], truncate: bool, name: str) -> Tokens:
        if len(ids) <= self.max_length:
            return Tokens(ids)
        if not truncate:
            raise ContextLengthExceeded(f"{name} has {len(ids)} tokens, and this model reads at most {self.max_length}")
        return Tokens(ids[: self.max_length], full_length=len(ids))


class EchoEmbedder(_EchoEncoder):
    """How often each byte occurs, modulo `width`, as a vector of length 1: texts of the same letters are alike."""

    def __init__(self, max_length: int, options: dict[str, str]) -> None:
        super().__init__(max_length, options)
        self.width = int(options.get("width", BYTES))

    def tokenize(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool) -> list[Tokens]:
        return [self._fitted(_ids(item, f"input[{i}]"), truncate, f"input[{i}]") for i, item in enumerate(inputs)]

    def _row(self, tokens: Tokens) -> "NDArray[np.float64]":
        counts = np.bincount(np.array(tokens.ids, int) % self.width, minlength=self.width).astype(float)
        return counts / max(float(np.linalg.norm(counts)), 1e-9)


class EchoReranker(_EchoEncoder):
    """Which part of the query's bytes, 0 to 1, the document has too."""

    cross_encoder = True

    def tokenize_pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[Tokens]:
        first = list(query.encode())
        pairs = [
            self._fitted([*first, *document.encode()], truncate, f"documents[{i}]")
            for i, document in enumerate(documents)
        ]
        for pair in pairs:
            pair.second = len(first)
        return pairs

    def _row(self, tokens: Tokens) -> "NDArray[np.float64]":
        query, document = tokens.ids[: tokens.second], set(tokens.ids[tokens.second :])
        return np.array([sum(byte in document for byte in query) / max(len(query), 1)])


def _ids(item: str | Sequence[int], name: str) -> list[int]:
    ids = list(item.encode() if isinstance(item, str) else item)
    if bad := next((token for token in ids if not 0 <= token < BYTES), None):
        raise InvalidRequest(f"{name}: token id {bad} is out of range: this model has {BYTES} tokens").at("input")
    return ids
