"""Embedding: its engine, and what crosses a handle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.backends.base.encoder import Encoder, Tokens


class Embedder(Encoder, Protocol):
    """Embeds texts. Rows are as the model's own files say: pooled, and normalised where they say so."""

    def tokenize(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool) -> list[Tokens]:
        """Texts, or ids of this model's tokenizer without special tokens. Blocking, thread-safe.

        Raises InvalidRequest for an id that is none, ContextLengthExceeded with both numbers for an input that is
        longer than `max_length` and must not be truncated; both name the input's index.
        """
        ...


@dataclass(slots=True, kw_only=True)
class EmbedRequest:
    """Texts, or token ids, to embed."""

    inputs: list[str | bytes]
    """Texts, or ids of the model's tokenizer as int32 in the machine's byte order: millions of them cross at once."""
    dimensions: int | None = None
    """Cut each vector to so many and normalise it again. None: the model's own."""
    truncate: bool | None = None
    """Cut inputs that are too long; False: refuse them. None: as the model's config says."""
    tenant: str = ""


@dataclass(slots=True)
class Vectors:
    """Consecutive rows of an answer, as one array."""

    data: bytes
    """float32, little-endian, row after row."""
    width: int
    prompt_tokens: int = 0
    """Tokens that were embedded, special tokens included, of these rows."""
    truncated: int = 0
    """How many of these inputs were cut."""
