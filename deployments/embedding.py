"""Embeddings as a deployment: texts or token ids in, vectors out, in pieces where there are many."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

from deployments.backends.base import Embedder, EmbedRequest, RerankRequest, Scores, Tokens, Vectors
from deployments.config import ModelConfig
from deployments.encoding import EncodingPipeline
from deployments.errors import EngineError, InvalidRequest, MantaError
from deployments.rerank import cosine_scores, normalised

logger = logging.getLogger("manta.embedding")


class EmbeddingModel:
    """Serves one embedder; it can also rank documents by the similarity of their embeddings."""

    def __init__(self, engine: Embedder, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        self._pipeline = EncodingPipeline(engine, config)

    async def embed(self, request: EmbedRequest) -> Vectors:
        """All rows at once: the stream, collected."""
        async with aclosing(self.stream_embed(request)) as stream:
            pieces = [piece async for piece in stream]
        return Vectors(
            data=b"".join(piece.data for piece in pieces),
            width=request.dimensions or self.engine.width,
            prompt_tokens=sum(piece.prompt_tokens for piece in pieces),
            truncated=sum(piece.truncated for piece in pieces),
        )

    async def embed_each(self, requests: Sequence[EmbedRequest]) -> list[Vectors | MantaError]:
        """The answers to several requests that crossed together; one that fails, fails alone."""
        results = await asyncio.gather(*map(self.embed, requests), return_exceptions=True)
        return [_answered(result) for result in results]

    async def stream_embed(self, request: EmbedRequest) -> AsyncGenerator[Vectors, None]:
        """Pieces of some hundred rows in the order of the inputs, each as soon as it is ready.

        Raises InvalidRequest for dimensions that the model doesn't have, and what `Embedder.tokenize` raises.
        """
        width = self.engine.width if request.dimensions is None else request.dimensions
        if not 0 < width <= self.engine.width:
            raise InvalidRequest(f"dimensions must be from 1 to {self.engine.width} for this model, not {width}").at(
                "dimensions"
            )

        def tokenize(inputs: Sequence[str | bytes], truncate: bool) -> list[Tokens]:
            read = [item if isinstance(item, str) else memoryview(item).cast("i") for item in inputs]
            return self.engine.tokenize(read, truncate=truncate)

        encoded = self._pipeline.encode(request.inputs, tokenize, truncate=request.truncate, tenant=request.tenant)
        async with aclosing(encoded) as pieces:
            async for piece in pieces:
                rows = piece.rows if width == self.engine.width else normalised(piece.rows[:, :width])
                yield Vectors(rows.astype("<f4", copy=False).tobytes(), width, piece.tokens, piece.truncated)

    async def rerank(self, request: RerankRequest) -> Scores:
        """By cosine similarity."""
        return await cosine_scores(self._pipeline, self.engine, request)

    def stats(self) -> dict[str, float]:
        return self._pipeline.stats()

    def close(self) -> None:
        self._pipeline.close()


def _answered(result: Vectors | BaseException) -> Vectors | MantaError:
    if isinstance(result, (Vectors, MantaError)):
        return result
    logger.error("an embedding request failed", exc_info=result)
    return EngineError(f"{type(result).__name__}: {result}")
