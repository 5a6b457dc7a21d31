"""EmbeddingModel on the echo encoder, and the pipeline under it on one that the test holds still."""

import asyncio
import threading
from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments import encoding
from deployments.backends.base import EmbedRequest, RerankRequest, Tokens, Vectors
from deployments.backends.echo_encoder import EchoEmbedder
from deployments.config import ModelConfig
from deployments.embedding import EmbeddingModel
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest, Overloaded
from tests.unit.deployments.fake_encoder import FakeEncoder
from tests.unit.waiting import until


def model(options: list[str] | None = None, **fields: Any) -> EmbeddingModel:
    config = ModelConfig(name="echo", backend="echo", options=options or [], **fields)
    return EmbeddingModel(EchoEmbedder.load(config, Path(), lambda _: None), config, Path())


def ids(numbers: Iterable[int]) -> bytes:
    return array("i", list(numbers)).tobytes()


def rows(vectors: Vectors) -> np.ndarray:
    return np.frombuffer(vectors.data, "<f4").reshape(-1, vectors.width)


async def test_texts_and_their_ids_embed_alike_in_order() -> None:
    texts = ["hällo", "", "a", "hällo", "zz" * 400]
    vectors = await model().embed(EmbedRequest(inputs=[*texts, ids(b"a")]))
    found = rows(vectors)
    assert found.shape == (6, 256)
    assert np.allclose(found[0], found[3])
    assert np.allclose(found[2], found[5])
    assert found[2].argmax() == ord("a") and found[4].argmax() == ord("z")
    assert vectors.prompt_tokens == 6 + 0 + 1 + 6 + 800 + 1
    assert vectors.truncated == 0


async def test_the_stream_is_the_answer_in_pieces() -> None:
    inputs: list[str | bytes] = [f"{i} " * (1 + i % 40) for i in range(1000)]
    whole = await model().embed(EmbedRequest(inputs=inputs))
    pieces = [piece async for piece in model().stream_embed(EmbedRequest(inputs=inputs))]
    assert [len(piece.data) // 4 // piece.width for piece in pieces] == [256, 256, 256, 232]
    assert b"".join(piece.data for piece in pieces) == whole.data
    assert sum(piece.prompt_tokens for piece in pieces) == whole.prompt_tokens == sum(map(len, inputs))


async def test_pieces_are_small_in_text_too() -> None:
    inputs: list[str | bytes] = ["x" * 60_000, "y" * 60_000, "z", ids(b"w" * 25_001), "v"]
    pieces = [piece async for piece in model(["width:4"]).stream_embed(EmbedRequest(inputs=inputs))]
    assert [len(piece.data) // 16 for piece in pieces] == [1, 2, 1, 1]


async def test_dimensions_are_cut_and_normalised_again() -> None:
    whole = rows(await model().embed(EmbedRequest(inputs=["abcz"])))
    vectors = await model().embed(EmbedRequest(inputs=["abcz"], dimensions=ord("c")))
    assert vectors.width == ord("c")
    cut = whole[:, : ord("c")]
    assert np.allclose(rows(vectors), cut / np.linalg.norm(cut), atol=1e-6)
    assert np.linalg.norm(rows(vectors)) == pytest.approx(1)


async def test_a_cut_vector_of_zeros_stays_one() -> None:
    assert not rows(await model().embed(EmbedRequest(inputs=["z"], dimensions=2))).any()


@pytest.mark.parametrize("dimensions", [0, -1, 257])
async def test_dimensions_that_the_model_does_not_have(dimensions: int) -> None:
    with pytest.raises(InvalidRequest, match="from 1 to 256") as refused:
        await model().embed(EmbedRequest(inputs=["a"], dimensions=dimensions))
    assert refused.value.param == "dimensions"


@pytest.mark.parametrize(
    ("config", "request_", "cut"),
    [(None, None, True), (True, None, True), (False, None, False), (False, True, True), (None, False, False)],
)
async def test_too_long_inputs_are_cut_as_the_request_or_else_the_config_says(
    config: bool | None, request_: bool | None, cut: bool
) -> None:
    echo = model(context_size=8, truncate=config)
    request = EmbedRequest(inputs=["a" * 9, "b", "c" * 100], truncate=request_)
    if cut:
        vectors = await echo.embed(request)
        assert (vectors.truncated, vectors.prompt_tokens) == (2, 8 + 1 + 8)
    else:
        with pytest.raises(ContextLengthExceeded, match=r"input\[0\] has 9 tokens.* at most 8"):
            await echo.embed(request)


async def test_a_bad_input_is_named_by_its_place_in_the_whole_request() -> None:
    inputs: list[str | bytes] = ["a"] * 700
    inputs[600] = ids([300])
    with pytest.raises(InvalidRequest, match=r"input\[600\]: token id 300"):
        await model().embed(EmbedRequest(inputs=inputs))


async def test_one_bad_request_among_many_fails_alone() -> None:
    echo = model(["fail_on:poison"])
    requests = [EmbedRequest(inputs=["poison!" if i == 7 else f"text {i}"]) for i in range(20)]
    answers = await asyncio.gather(*map(echo.embed, requests), return_exceptions=True)
    assert [i for i, answer in enumerate(answers) if isinstance(answer, EngineError)] == [7]
    assert sum(isinstance(answer, Vectors) for answer in answers) == 19


async def test_documents_are_ranked_by_cosine() -> None:
    scores = await model().rerank(RerankRequest(query="abc", documents=["abc", "abd", "xyz"]))
    assert scores.scores == pytest.approx([1, 2 / 3, 0], abs=1e-6)
    assert scores.prompt_tokens == 12


class Embedder(FakeEncoder):
    """Texts are numbers; tokenizing can be held still too."""

    def __init__(self) -> None:
        super().__init__(batch_tokens=256)
        self.tokenized = 0
        self.tokenizing = 0
        self.most_tokenizing = 0
        self.may_tokenize = threading.Event()
        self.may_tokenize.set()

    def tokenize(self, inputs: Any, *, truncate: bool) -> list[Tokens]:
        self.tokenizing += 1
        self.most_tokenizing = max(self.most_tokenizing, self.tokenizing)
        assert self.may_tokenize.wait(20)
        self.tokenizing -= 1
        self.tokenized += len(inputs)
        return [Tokens([int(text)]) for text in inputs]


def fake(**fields: Any) -> tuple[EmbeddingModel, Embedder]:
    engine = Embedder()
    return EmbeddingModel(engine, ModelConfig(name="fake", **fields), Path()), engine


NUMBERS: list[str | bytes] = [str(i % 600) for i in range(10_000)]


async def test_a_big_request_is_read_only_so_far_ahead() -> None:
    embedding, engine = fake()
    engine.may_run.clear()
    work = asyncio.create_task(embedding.embed(EmbedRequest(inputs=NUMBERS)))
    await until(lambda: embedding.stats()["queued"] == encoding.PIECES_AHEAD * encoding.PIECE_INPUTS - 256)
    assert engine.tokenized == encoding.PIECES_AHEAD * encoding.PIECE_INPUTS
    engine.may_run.set()
    assert rows(await work)[:, 0].tolist() == [float(text) for text in NUMBERS]
    assert engine.tokenized == 10_000
    assert engine.most_tokenizing == 1


async def test_a_small_request_does_not_wait_for_the_rest_of_a_big_one() -> None:
    embedding, engine = fake()
    engine.may_run.clear()
    big = asyncio.create_task(embedding.embed(EmbedRequest(inputs=NUMBERS)))
    await until(lambda: engine.running)
    small = asyncio.create_task(embedding.embed(EmbedRequest(inputs=["5"])))
    await until(lambda: embedding.stats()["slots_busy"] == 2 and engine.tokenizing == 0)
    engine.may_run.set()
    await small
    assert len(engine.batches) < 10
    assert not big.done()
    await big


async def test_10_000_inputs_go_through_the_event_loop_in_pieces() -> None:
    """A turn of the loop queues a piece or answers a batch: 3 ms of CPU at most where this was written."""
    embedding, _ = fake()
    work = asyncio.create_task(embedding.embed(EmbedRequest(inputs=NUMBERS)))
    seen, most = 0.0, 0.0
    while not work.done():
        await asyncio.sleep(0)
        stats = embedding.stats()
        queued_or_done = stats["queued"] + stats["inputs"]
        most, seen = max(most, queued_or_done - seen), queued_or_done
    assert len((await work).data) == 10_000 * 2 * 4
    assert 0 < most <= 2 * encoding.PIECE_INPUTS


async def test_a_reader_that_leaves_empties_the_queue() -> None:
    embedding, engine = fake()
    stream = embedding.stream_embed(EmbedRequest(inputs=NUMBERS))
    await anext(stream)
    await stream.aclose()
    await until(lambda: not embedding.stats()["batches_running"])
    stats = embedding.stats()
    assert (stats["slots_busy"], stats["queued"]) == (0, 0)
    assert sum(map(len, engine.batches)) < 5000


async def test_a_cancelled_answer_empties_the_queue() -> None:
    embedding, engine = fake()
    engine.may_run.clear()
    work = asyncio.create_task(embedding.embed(EmbedRequest(inputs=NUMBERS)))
    await until(lambda: embedding.stats()["queued"] > 1000)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert (embedding.stats()["slots_busy"], embedding.stats()["queued"]) == (0, 0)
    engine.may_run.set()


async def test_a_full_queue_refuses_with_429() -> None:
    embedding, engine = fake(max_queued_requests=2)
    engine.may_run.clear()
    running = [asyncio.create_task(embedding.embed(EmbedRequest(inputs=["1"])))]
    await until(lambda: engine.running)
    running += [asyncio.create_task(embedding.embed(EmbedRequest(inputs=["2"]))) for _ in range(2)]
    await until(lambda: embedding.stats()["slots_busy"] == 3)
    with pytest.raises(Overloaded) as refused:
        await embedding.embed(EmbedRequest(inputs=["3"]))
    assert refused.value.status == 429 and refused.value.retry_after
    engine.may_run.set()
    await asyncio.gather(*running)
    assert (await embedding.embed(EmbedRequest(inputs=["4"]))).data


async def test_close_closes_the_engine_too() -> None:
    embedding, engine = fake()
    embedding.close()
    assert engine.closed
    with pytest.raises(EngineError, match="unloaded"):
        await embedding.embed(EmbedRequest(inputs=["1"]))


async def test_requests_that_crossed_together_fail_alone() -> None:
    embedder = model(context_size=4)
    requests = [
        EmbedRequest(inputs=["abc"]),
        EmbedRequest(inputs=["abcde"], truncate=False),
        EmbedRequest(inputs=["d"]),
    ]
    first, second, third = await embedder.embed_each(requests)
    assert isinstance(second, ContextLengthExceeded)
    assert isinstance(first, Vectors) and isinstance(third, Vectors)
    assert first.data == (await embedder.embed(requests[0])).data
    assert third.data == (await embedder.embed(requests[2])).data
