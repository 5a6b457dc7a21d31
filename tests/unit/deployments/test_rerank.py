"""RerankModel: pairs through a cross-encoder, or cosines where the engine is a bi-encoder."""

from pathlib import Path
from typing import Any

import pytest

from deployments.backends.base import RerankRequest
from deployments.backends.echo_encoder import EchoEmbedder, EchoReranker
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded
from deployments.rerank import RerankModel


class BiEncoder(EchoEmbedder):
    """As a reranker's engine."""

    cross_encoder = False


def model(engine: type[Any] = EchoReranker, **fields: Any) -> RerankModel:
    config = ModelConfig(name="echo", backend="echo", **fields)
    return RerankModel(engine.load(config, Path(), lambda _: None), config, Path())


async def test_scores_are_in_the_order_of_the_documents() -> None:
    scores = await model().rerank(RerankRequest(query="abcd", documents=["xyz", "ab", "dcba and more", ""]))
    assert scores.scores == [0, 0.5, 1, 0]
    assert (scores.prompt_tokens, scores.truncated) == (4 * 4 + 3 + 2 + 13, 0)


async def test_many_documents_go_in_pieces() -> None:
    documents = ["a" if i % 3 else "b" for i in range(1000)]
    scores = await model().rerank(RerankRequest(query="a", documents=documents))
    assert scores.scores == [float(document == "a") for document in documents]


async def test_documents_are_cut_or_refused() -> None:
    request = RerankRequest(query="ab", documents=["c", "x" * 30 + "ab"])
    scores = await model(context_size=8).rerank(request)
    assert (scores.scores, scores.truncated) == ([0, 0], 1)
    with pytest.raises(ContextLengthExceeded, match=r"documents\[1\] has 34 tokens"):
        await model(context_size=8, truncate=False).rerank(request)


async def test_a_bi_encoder_scores_by_cosine() -> None:
    scores = await model(BiEncoder).rerank(RerankRequest(query="abc", documents=["xyz", "cab", "abd"]))
    assert scores.scores == pytest.approx([0, 1, 2 / 3], abs=1e-6)
    assert scores.prompt_tokens == 12


@pytest.mark.parametrize(
    ("query", "said", "param"), [("ab", r"^documents\[1\] has 9", "documents"), ("a" * 9, "^query has 9", "query")]
)
async def test_a_bi_encoder_names_what_is_too_long(query: str, said: str, param: str) -> None:
    request = RerankRequest(query=query, documents=["c", "x" * 9])
    with pytest.raises(ContextLengthExceeded, match=said) as raised:
        await model(BiEncoder, context_size=8, truncate=False).rerank(request)
    assert raised.value.param == param
