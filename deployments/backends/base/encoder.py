"""An encoder: batches of token ids in, rows of floats out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(slots=True)
class Tokens:
    """One input of an encoder, its special tokens included."""

    ids: list[int]
    second: int = 0
    """Where the second text of a pair begins; 0: there is none."""
    full_length: int = 0
    """Tokens before it was truncated; 0: it was not."""


class Encoder(Protocol):
    """A loaded encoder: token ids in, one row of floats per input out. The batcher decides what runs together."""

    max_length: int
    """Tokens of one input, special tokens included."""
    width: int
    """Floats per row: the embedding's dimension, or 1 for a score."""
    batch_tokens: int
    """Tokens, padding included, with which one batch keeps the hardware full. A longer input is a batch alone."""
    parallel_batches: int
    """Batches that may run at once: 1 on a CPU, 2 where a GPU should never wait for the next one."""

    def encode(self, batch: Sequence[Tokens]) -> "NDArray[np.float32]":
        """Rows [inputs, width], in the order of the batch. Blocking; called from `parallel_batches` threads at most.

        Raises EngineError.
        """
        ...

    def stats(self) -> dict[str, float]:
        """Gauges of the engine alone; `failed` 1: it is broken for good."""
        ...

    def close(self) -> None: ...
