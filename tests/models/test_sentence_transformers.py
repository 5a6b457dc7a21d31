"""The sentence-transformers engines on all-MiniLM-L6-v2 and a small cross-encoder, one thread, against the library."""

import json
import shutil
import socket
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentence_transformers")

from sentence_transformers import CrossEncoder, SentenceTransformer  # noqa: E402
from sentence_transformers.base.modules import Dense  # noqa: E402
from transformers import RobertaConfig, RobertaModel  # noqa: E402

from deployments.backends.base import Tokens  # noqa: E402
from deployments.backends.sentence_transformers import SentenceEmbedder, SentenceReranker  # noqa: E402
from deployments.config import ModelConfig  # noqa: E402
from deployments.config_blocks import Parameters  # noqa: E402
from deployments.errors import (  # noqa: E402
    ConfigInvalid,
    ContextLengthExceeded,
    EngineError,
    InvalidRequest,
    ModelLoadFailed,
)
from tests.models.sentences import QUERIES, RELATED, sentences  # noqa: E402

CLS, SEP = 101, 102
PLAIN = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
"""The files of a transformers directory without sentence-transformers' own."""


def config(path: Path, *, pooling: str | None = None, **fields: Any) -> ModelConfig:
    return ModelConfig(name="m", parameters=Parameters(model=path.name, pooling=pooling), threads=1, **fields)


def load(path: Path, **fields: Any) -> SentenceEmbedder:
    return SentenceEmbedder.load(config(path, **fields), path.parent, lambda fraction: None)


def embed(engine: SentenceEmbedder, texts: list[str], size: int = 32) -> Any:
    """Rows of the texts, in batches of neighbours."""
    tokens = engine.tokenize(texts, truncate=True)
    return np.concatenate([engine.encode(tokens[start : start + size]) for start in range(0, len(tokens), size)])


def cosines(ours: Any, theirs: Any) -> Any:
    return (ours * theirs).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))


@pytest.fixture(scope="module")
def engine(minilm_path: Path) -> SentenceEmbedder:
    return load(minilm_path)


@pytest.fixture(scope="module")
def library(minilm_path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(minilm_path), device="cpu", local_files_only=True)


@pytest.fixture
def copy(minilm_path: Path, tmp_path: Path) -> Callable[..., Path]:
    """The model's directory with files left out and keys of JSON files changed."""

    def make(files: tuple[str, ...] | None = None, **changes: dict[str, Any]) -> Path:
        directory = tmp_path / "model"
        shutil.copytree(minilm_path, directory, ignore=lambda _, names: set(names) - set(files) if files else set())
        for name, values in changes.items():
            file = next(directory.rglob(f"{name}.json"))
            file.write_text(json.dumps(json.loads(file.read_text()) | values))
        return directory

    return make


# ---- embeddings ------------------------------------------------------------------------------------------------------


def test_a_thousand_sentences_equal_the_library_in_batches_and_alone(engine, library) -> None:
    texts = sentences(1000)
    expected = library.encode(texts)
    tokens = engine.tokenize(texts, truncate=True)
    assert any(item.full_length for item in tokens)
    assert cosines(embed(engine, texts), expected).min() >= 0.99999
    alone = np.concatenate([engine.encode([item]) for item in tokens])
    assert cosines(alone, expected).min() >= 0.99999


def test_rows_are_float32_and_as_long_as_the_model_says(engine) -> None:
    rows = embed(engine, ["one", "two words"])
    assert (rows.shape, rows.dtype, rows.flags.c_contiguous) == ((2, 384), np.float32, True)
    assert engine.width == 384
    assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)


def test_what_is_related_is_above_what_is_not(engine) -> None:
    first, second = (embed(engine, list(texts)) for texts in zip(*RELATED, strict=True))
    similarity = first @ second.T
    related = similarity.diagonal()
    assert related.min() > (similarity - 2 * np.eye(len(RELATED))).max()


def test_ids_of_the_client_get_the_special_tokens(engine) -> None:
    (text,) = engine.tokenize(["hello world"], truncate=False)
    assert text == Tokens([CLS, 7592, 2088, SEP])
    assert engine.tokenize([[7592, 2088]], truncate=False) == [text]
    with pytest.raises(InvalidRequest, match=r"input\[1\]: 30522 is no token"):
        engine.tokenize(["a", [30522]], truncate=True)


def test_too_long_inputs_are_cut_as_the_library_cuts_them_or_refused(engine, library) -> None:
    text = "the sea is wide and " * 80
    (tokens,) = engine.tokenize([text], truncate=True)
    assert (len(tokens.ids), tokens.ids[-1], tokens.full_length) == (256, SEP, 402)
    assert tokens.ids == library.preprocess([text])["input_ids"][0].tolist()
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has 402 tokens.* 256"):
        engine.tokenize(["short", text], truncate=False)


def test_a_plain_encoder_is_pooled_as_the_library_does(copy) -> None:
    directory = copy(PLAIN)
    texts = sentences(40)
    assert cosines(embed(load(directory), texts), SentenceTransformer(str(directory)).encode(texts)).min() >= 0.99999


def test_the_config_may_say_how_to_pool(minilm_path: Path, engine) -> None:
    texts = sentences(40)
    library = SentenceTransformer(str(minilm_path), device="cpu")
    library[1].pooling_mode = "cls"
    rows = embed(load(minilm_path, pooling="cls"), texts)
    assert cosines(rows, library.encode(texts)).min() >= 0.99999
    assert cosines(rows, embed(engine, texts)).max() < 0.99


def test_prompts_are_put_before_texts_and_ids(copy) -> None:
    prompts = {"prompts": {"passage": "passage: "}, "default_prompt_name": "passage"}
    directory = copy(config_sentence_transformers=prompts)
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps({"embedding_dimension": 384, "pooling_mode": "mean", "include_prompt": False})
    )
    texts = sentences(40)
    engine = load(directory)
    assert cosines(embed(engine, texts), SentenceTransformer(str(directory)).encode(texts)).min() >= 0.99999
    assert engine.tokenize([[7592]], truncate=True) == engine.tokenize(["hello"], truncate=True)


def test_dense_layers_and_shortened_vectors_are_the_models_own(library, tmp_path: Path) -> None:
    torch.manual_seed(0)
    directory = tmp_path / "dense"
    SentenceTransformer(modules=[library[0], library[1], Dense(384, 64)], truncate_dim=24).save(str(directory))
    texts = sentences(40)
    engine = load(directory)
    assert engine.width == 24
    assert cosines(embed(engine, texts), SentenceTransformer(str(directory)).encode(texts)).min() >= 0.99999


def test_some_models_are_padded_on_the_left(copy) -> None:
    directory = copy(tokenizer_config={"padding_side": "left"})
    texts = sentences(40)
    library = SentenceTransformer(str(directory))
    assert library.tokenizer.padding_side == "left"
    assert cosines(embed(load(directory), texts, size=40), library.encode(texts, batch_size=40)).min() >= 0.99999


def test_roberta_has_fewer_positions_than_its_config_says(copy) -> None:
    """It counts them from the padding's id on; the library overruns the table."""
    directory = copy(PLAIN)
    (directory / "model.safetensors").unlink()
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    roberta = RobertaConfig(vocab_size=30522, max_position_embeddings=40, pad_token_id=0, **shape)
    RobertaModel(roberta).save_pretrained(directory)
    engine = load(directory)
    assert engine.max_length == 39
    assert np.isfinite(embed(engine, ["a b c " * 40])).all()


def test_context_size_may_make_inputs_shorter(minilm_path: Path) -> None:
    assert load(minilm_path, context_size=64).max_length == 64
    assert load(minilm_path, context_size=8192).max_length == 256


# ---- speed -----------------------------------------------------------------------------------------------------------


def test_a_batch_takes_no_longer_than_the_librarys_own(engine, library) -> None:
    """CPU seconds of one thread, so that other processes don't count."""
    texts = ["the sea is wide and " * 10] * 10
    tokens = engine.tokenize(texts, truncate=False)

    def seconds(run: Callable[[], Any]) -> float:
        start = time.process_time()
        run()
        return time.process_time() - start

    rounds = [(seconds(lambda: engine.encode(tokens)), seconds(lambda: library.encode(texts))) for _ in range(9)]
    ours, theirs = (statistics.median(column) for column in zip(*rounds, strict=True))
    assert ours <= 1.1 * theirs


def test_threads_reach_every_thread_that_encodes(engine) -> None:
    seen: list[int] = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [1]


# ---- reranking -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reranker(reranker_path: Path) -> SentenceReranker:
    engine = SentenceReranker.load(config(reranker_path), reranker_path.parent, lambda fraction: None)
    assert isinstance(engine, SentenceReranker)
    return engine


def scores(engine: SentenceReranker, query: str, documents: list[str]) -> Any:
    return engine.encode(engine.tokenize_pairs(query, documents, truncate=True))


def test_scores_equal_the_librarys(reranker, reranker_path: Path) -> None:
    library = CrossEncoder(str(reranker_path), device="cpu", model_kwargs={"dtype": torch.float32})
    documents = sentences(60)
    for query in ("a dog in winter", "東京"):
        expected = library.predict([(query, document) for document in documents])
        rows = scores(reranker, query, documents)
        assert (rows.shape, reranker.width) == ((60, 1), 1)
        assert np.abs(rows[:, 0] - expected).max() <= 1e-5


def test_the_activation_is_the_models_own(reranker, reranker_path: Path, tmp_path: Path) -> None:
    directory = tmp_path / "logits"
    shutil.copytree(reranker_path, directory)
    own = json.loads((directory / "config.json").read_text())
    own["sentence_transformers"] = {"activation_fn": "torch.nn.modules.linear.Identity"}
    (directory / "config.json").write_text(json.dumps(own))
    engine = SentenceReranker.load(config(directory), tmp_path, lambda fraction: None)
    assert isinstance(engine, SentenceReranker)
    logits = scores(engine, "play music", ["music player", "a bridge"])
    assert 1 / (1 + np.exp(-logits)) == pytest.approx(scores(reranker, "play music", ["music player", "a bridge"]))


@pytest.mark.parametrize(("query", "answer", "others"), QUERIES)
def test_the_right_document_comes_first(reranker, query: str, answer: str, others: tuple[str, ...]) -> None:
    assert scores(reranker, query, [*others, answer])[:, 0].argmax() == len(others)


def test_the_document_is_cut_and_the_query_only_where_it_leaves_no_room(reranker) -> None:
    long = "the sea is wide and " * 200
    cut, both = (reranker.tokenize_pairs(query, [long], truncate=True)[0] for query in ("hello world", long))
    assert (len(cut.ids), cut.second, cut.full_length) == (512, 4, 1005)
    assert (len(both.ids), both.second) == (512, 256)
    assert cut.ids[-1] == both.ids[-1] == SEP
    with pytest.raises(ContextLengthExceeded, match=r"documents\[1\]"):
        reranker.tokenize_pairs("hello", ["short", long], truncate=False)


def test_a_bi_encoder_reranks_by_its_embeddings(reranker, minilm_path: Path) -> None:
    engine = SentenceReranker.load(config(minilm_path), minilm_path.parent, lambda fraction: None)
    assert isinstance(engine, SentenceEmbedder)
    assert (engine.cross_encoder, reranker.cross_encoder) == (False, True)


def test_a_classifier_of_more_labels_is_no_reranker(reranker_path: Path, tmp_path: Path) -> None:
    directory = tmp_path / "labels"
    model = CrossEncoder(str(reranker_path), device="cpu", num_labels=1)
    model.model.config.num_labels = 3
    model.model.classifier = torch.nn.Linear(384, 3)
    model.save_pretrained(str(directory))
    with pytest.raises(ModelLoadFailed, match="3 labels"):
        SentenceReranker.load(config(directory), tmp_path, lambda fraction: None)


# ---- beginning and end -----------------------------------------------------------------------------------------------


def test_loading_needs_no_network_and_tells_its_progress(minilm_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    seen: list[float] = []
    SentenceEmbedder.load(config(minilm_path), minilm_path.parent, seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"type": "OVModelForCausalLM"}, "type is 'OVModelForCausalLM'"),
        ({"dtype": "int3"}, "dtype is 'int3'"),
        ({"context_size": 3}, "a context of 3 tokens"),
        ({"pooling": "decayed_mean"}, "pooling is 'decayed_mean'; known are mean"),
    ],
)
def test_impossible_settings_are_named(minilm_path: Path, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigInvalid, match=words):
        load(minilm_path, **fields)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_torch_does_not_see_is_an_error(minilm_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"num_gpus is 1, but torch .* sees no GPU"):
        load(minilm_path, num_gpus=1)


def test_broken_files_fail_in_the_librarys_own_words(copy) -> None:
    directory = copy()
    (directory / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{broken}")
    with pytest.raises(ModelLoadFailed, match=r"m: sentence-transformers could not load .*/model: .+"):
        load(directory)


CUSTOM_CODE = """
from transformers import BertConfig, BertModel
class Config(BertConfig):
    model_type = "own"
class Model(BertModel):
    config_class = Config
"""


def test_code_in_the_models_directory_runs_only_where_the_config_trusts_it(copy, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    directory = copy(
        PLAIN, config={"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    )
    (directory / "own.py").write_text(CUSTOM_CODE)
    with pytest.raises(ModelLoadFailed, match="trust_remote_code"):
        load(directory)
    assert load(directory, trust_remote_code=True).width == 384


def test_a_failing_batch_is_the_engines_error_and_a_closed_engine_says_so(minilm_path: Path) -> None:
    engine = load(minilm_path)
    with pytest.raises(EngineError, match="the model failed: index"):
        engine.encode([Tokens([10**6])])
    assert engine.stats() == {"failed": 0.0}
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.encode([Tokens([CLS, SEP])])
