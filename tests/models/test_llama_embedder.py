"""llama.cpp's encoders: SmolLM2's GGUF against llama-cpp-python, all-MiniLM-L6-v2 and a cross-encoder against torch."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
import pytest

from deployments.backends.base import Tokens
from deployments.backends.llama_embedder import LlamaEmbedder, LlamaReranker
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters
from deployments.errors import ConfigInvalid, ContextLengthExceeded, EngineError, InvalidRequest, ModelLoadFailed
from tests.models.sentences import QUERIES, RELATED, sentences

CONTEXT = 128


def load(path: Path, engine: type = LlamaEmbedder, *, pooling: str | None = None, **fields: Any) -> Any:
    parameters = Parameters(model=path.name, pooling=pooling)
    config = ModelConfig(name="m", parameters=parameters, threads=1, **fields)
    return engine.load(config, path.parent, lambda fraction: None)


def embed(engine: LlamaEmbedder, texts: list[str]) -> Any:
    return engine.encode(engine.tokenize(texts, truncate=True))


@pytest.fixture(scope="module")
def gguf_path(minilm_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 in float32."""
    return converted(minilm_path, tmp_path_factory.mktemp("gguf") / "minilm.gguf")


@pytest.fixture(scope="module")
def ranking_path(reranker_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cross-encoder in float32."""
    return converted(reranker_path, tmp_path_factory.mktemp("gguf") / "reranker.gguf")


def converted(directory: Path, file: Path) -> Path:
    pytest.importorskip("gguf")
    pytest.importorskip("safetensors")
    from tests.fixtures.bert2gguf import convert

    convert(directory, file)
    return file


@pytest.fixture(scope="module")
def bert(gguf_path: Path) -> Iterator[LlamaEmbedder]:
    engine = load(gguf_path)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def decoder(smollm2_path: Path) -> Iterator[LlamaEmbedder]:
    engine = load(smollm2_path, context_size=CONTEXT)
    yield engine
    engine.close()


# ---- a decoder -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_a_decoder_embeds_as_the_high_level_llama(smollm2_path: Path, same_kernels: None, pooling: str) -> None:
    texts = ["The capital of France is Paris.", "bread", "Grüße aus 東京 🙂"]
    peer = llama_cpp.Llama(
        str(smollm2_path), embedding=True, n_ctx=CONTEXT, n_batch=CONTEXT, n_ubatch=CONTEXT, n_threads=1, verbose=False,
        n_threads_batch=1, flash_attn=True, pooling_type=getattr(llama_cpp, f"LLAMA_POOLING_TYPE_{pooling.upper()}"),
    )  # fmt: skip
    expected = np.array([peer.embed(text, normalize=True) for text in texts])
    peer.close()
    engine = load(smollm2_path, context_size=CONTEXT, pooling=pooling)
    alone = np.concatenate([embed(engine, [text]) for text in texts])
    together = embed(engine, texts)
    engine.close()
    assert (alone * expected).sum(1).min() >= 0.99999
    assert (together * expected).sum(1).min() >= 0.999  # quantised activations amplify another order of sums


def test_a_decoder_without_pooling_takes_the_mean(decoder, smollm2_path: Path) -> None:
    named = load(smollm2_path, context_size=CONTEXT, pooling="mean")
    assert embed(named, ["a dog"]) == pytest.approx(embed(decoder, ["a dog"]))
    named.close()
    assert (decoder.width, decoder.max_length) == (576, CONTEXT)


def test_batches_leave_nothing_behind(decoder) -> None:
    texts = ["the sea is wide", "bread and butter"]
    first = embed(decoder, texts)
    embed(decoder, ["something else " * 20])
    assert embed(decoder, texts) == pytest.approx(first, abs=1e-6)
    alone = np.concatenate([embed(decoder, [text]) for text in texts])
    assert (alone * first).sum(1).min() >= 0.999


def test_an_input_without_tokens_is_refused(decoder) -> None:
    with pytest.raises(InvalidRequest, match=r"input\[1\] has no tokens"):
        decoder.tokenize(["a", ""], truncate=True)


# ---- BERT ------------------------------------------------------------------------------------------------------------


def test_bert_equals_sentence_transformers(bert, minilm_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers").SentenceTransformer(str(minilm_path), device="cpu")
    texts = [text for text in sentences(80) if "[SEP]" not in text]
    tokens = [item for item in bert.tokenize(texts, truncate=True) if len(item.ids) <= 256]
    texts = [text for text, item in zip(texts, bert.tokenize(texts, truncate=True), strict=True) if item in tokens]
    expected = library.encode(texts)
    assert (bert.encode(tokens) * expected).sum(1).min() >= 0.9999
    assert [item.ids for item in tokens] == [library.preprocess([text])["input_ids"][0].tolist() for text in texts]


def test_what_is_related_is_above_what_is_not(bert) -> None:
    first, second = (embed(bert, list(texts)) for texts in zip(*RELATED, strict=True))
    similarity = first @ second.T
    assert similarity.diagonal().min() > (similarity - 2 * np.eye(len(RELATED))).max()


def test_more_inputs_than_one_context_takes(bert) -> None:
    texts = [f"number {n}" for n in range(150)]
    rows = embed(bert, texts)
    assert (rows.shape, rows.dtype) == ((150, 384), np.float32)
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-5)
    assert (rows[149] * embed(bert, ["number 149"])[0]).sum() == pytest.approx(1, abs=1e-4)


def test_ids_and_lengths(bert) -> None:
    assert bert.max_length == 512
    assert (
        bert.tokenize([[7592]], truncate=False)
        == bert.tokenize(["hello"], truncate=False)
        == [Tokens([101, 7592, 102])]
    )
    (cut,) = bert.tokenize(["sea " * 600], truncate=True)
    assert (len(cut.ids), cut.ids[-1], cut.full_length) == (512, 102, 602)
    assert bert.encode([cut]).shape == (1, 384)
    with pytest.raises(ContextLengthExceeded, match=r"602 tokens.* 512"):
        bert.tokenize(["sea " * 600], truncate=False)
    with pytest.raises(InvalidRequest, match=r"input\[0\]: 30522 is no token"):
        bert.tokenize([[30522]], truncate=True)


# ---- reranking -------------------------------------------------------------------------------------------------------


def test_a_cross_encoder_equals_the_library_without_token_types(ranking_path: Path, reranker_path: Path) -> None:
    """llama.cpp gives every token the first type."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(reranker_path, dtype=torch.float32)
    engine = load(ranking_path, LlamaReranker)
    documents = [text for text in sentences(20) if "[SEP]" not in text]
    tokens = engine.tokenize_pairs("winter sea", documents, truncate=True)
    with torch.inference_mode():
        expected = [model(torch.tensor([item.ids])).logits.sigmoid().item() for item in tokens]
    rows = engine.encode(tokens)
    engine.close()
    assert (rows.shape, engine.width, engine.cross_encoder) == ((len(documents), 1), 1, True)
    assert rows[:, 0] == pytest.approx(expected, abs=2e-3)


def test_the_right_document_comes_first(ranking_path: Path) -> None:
    engine = load(ranking_path, LlamaReranker)
    for query, answer, others in QUERIES:
        rows = engine.encode(engine.tokenize_pairs(query, [*others, answer], truncate=True))
        assert rows[:, 0].argmax() == len(others)
    engine.close()


def test_models_are_not_taken_for_what_they_are_not(gguf_path: Path, ranking_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="no head that ranks"):
        load(gguf_path, LlamaReranker)
    with pytest.raises(ConfigInvalid, match="is a reranker"):
        load(ranking_path)


# ---- beginning and end -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooling", ["none", "rank", "decayed_mean"])
def test_other_poolings_are_refused(gguf_path: Path, pooling: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"pooling is '{pooling}'; known are mean, cls, last"):
        load(gguf_path, pooling=pooling)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"missing\.gguf"):
        load(tmp_path / "missing.gguf")


def test_closing_ends_a_batch_that_runs(smollm2_path: Path) -> None:
    engine = load(smollm2_path, context_size=2048)
    long = engine.tokenize(["the sea is wide and " * 300], truncate=True)
    outcome: list[BaseException] = []
    started = threading.Event()

    def run() -> None:
        started.set()
        try:
            engine.encode(long)
        except EngineError as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    engine.close()
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert len(outcome) == 1
    engine.close()
    for call in (lambda: engine.encode(long), lambda: engine.tokenize(["a"], truncate=True)):
        with pytest.raises(EngineError, match="closed"):
            call()
