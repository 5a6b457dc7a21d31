"""Reranking: its engine, and what crosses a handle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from deployments.backends.base.encoder import Encoder, Tokens


class Reranker(Encoder, Protocol):
    """Scores documents against a query. A cross-encoder reads both together."""

    cross_encoder: bool
    """False: it is an Embedder instead, and a score is the cosine of the query's row and the document's."""

    def tokenize_pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[Tokens]:
        """Each document after the query, the document truncated. Blocking, thread-safe. Raises as `tokenize`."""
        ...


@dataclass(slots=True, kw_only=True)
class RerankRequest:
    query: str
    documents: list[str]
    truncate: bool | None = None
    """As of EmbedRequest."""
    tenant: str = ""


@dataclass(slots=True)
class Scores:
    """One score per document, in the order of the documents; the higher the more relevant."""

    scores: list[float]
    prompt_tokens: int = 0
    truncated: int = 0
