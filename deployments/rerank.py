"""Reranking as a deployment: a query and documents in, a score for each document out."""

from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from deployments.backends.base import Embedder, Reranker, RerankRequest, Scores, Tokens
from deployments.config import ModelConfig
from deployments.encoding import Encoded, EncodingPipeline
from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray


class RerankModel:
    """Serves one reranker: a cross-encoder, or a bi-encoder whose embeddings are compared."""

    def __init__(self, engine: Reranker, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        self._pipeline = EncodingPipeline(engine, config)

    async def rerank(self, request: RerankRequest) -> Scores:
        """Raises what `Reranker.tokenize_pairs` raises."""
        if not self.engine.cross_encoder:
            return await cosine_scores(self._pipeline, cast("Embedder", self.engine), request)
        return await _pair_scores(self._pipeline, self.engine, request)

    def stats(self) -> dict[str, float]:
        return self._pipeline.stats()

    def close(self) -> None:
        self._pipeline.close()


async def _pair_scores(pipeline: EncodingPipeline, engine: Reranker, request: RerankRequest) -> Scores:
    """The cross-encoder's own output."""

    def tokenize(documents: Sequence[str], truncate: bool) -> list[Tokens]:
        return engine.tokenize_pairs(request.query, documents, truncate=truncate)

    encoded = await _whole(pipeline, request, request.documents, tokenize)
    return Scores(encoded.rows[:, 0].tolist(), encoded.tokens, encoded.truncated)


async def cosine_scores(pipeline: EncodingPipeline, engine: Embedder, request: RerankRequest) -> Scores:
    """Cosine similarity of the query's embedding to each document's, -1 to 1."""

    query = await _whole(pipeline, request, [request.query], _tokenizer(engine, "input[0]", "query"))
    documents = await _whole(pipeline, request, request.documents, _tokenizer(engine, "input[", "documents["))
    scores = normalised(documents.rows) @ normalised(query.rows)[0]
    return Scores(scores.tolist(), query.tokens + documents.tokens, query.truncated + documents.truncated)


def _tokenizer(engine: Embedder, named: str, name: str) -> Callable[[Sequence[str], bool], list[Tokens]]:
    """The embedder's own, whose errors name an input as this request does: `name` for `named`."""

    def tokenize(texts: Sequence[str], truncate: bool) -> list[Tokens]:
        try:
            return engine.tokenize(texts, truncate=truncate)
        except InvalidRequest as error:
            raise type(error)(error.message.replace(named, name, 1)).at(name.rstrip("[")) from None

    return tokenize


async def _whole(
    pipeline: EncodingPipeline,
    request: RerankRequest,
    texts: Sequence[str],
    tokenize: Callable[[Sequence[str], bool], list[Tokens]],
) -> Encoded:
    """All pieces as one."""
    encoded = pipeline.encode(texts, tokenize, truncate=request.truncate, tenant=request.tenant)
    async with aclosing(encoded) as stream:
        pieces = [piece async for piece in stream]
    rows = np.concatenate([piece.rows for piece in pieces])
    return Encoded(rows, sum(piece.tokens for piece in pieces), sum(piece.truncated for piece in pieces))


def normalised(rows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """Each row as a vector of length 1."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
