"""The benchmark of embeddings: its load, its table, and the subjects it compares."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.embedding_load import Load, RequestFailed, requests, send
from benchmarks.embedding_runs import Run, table
from benchmarks.embedding_scenarios import AT_REST, SCENARIOS, Scenario, Texts
from benchmarks.embedding_subjects import EmbeddingServer, Setup, Vectors, infinity, manta, plain
from benchmarks.embeddings import VectorsDiffer, least_cosine, measure, warm_up
from benchmarks.servers import Server
from deployments.config_file import load_yaml, parse
from tests.unit.benchmarks.conftest import CIRCUMSTANCES
from tests.unit.benchmarks.model_stub import ModelStub

pytest.importorskip("tokenizers")


class EmbeddingStub(ModelStub):
    """Embeds a text as [1, its length]."""

    def answer(self, body: dict[str, Any]) -> bytes:
        data = [{"index": index, "embedding": [1, len(text)]} for index, text in enumerate(body["input"])]
        return json.dumps({"data": data[::-1]}).encode()


@pytest.fixture
def stub() -> Iterator[EmbeddingStub]:
    with EmbeddingStub() as server:
        yield server


async def test_every_request_is_sent_once_by_clients_that_work_at_the_same_time(stub: EmbeddingStub) -> None:
    stub.together = threading.Barrier(4)
    texts = [[str(number)] for number in range(40)]
    load = await send(stub.url, requests(stub.url, "m", texts), clients=4)
    assert sorted(body["input"] for body in stub.bodies) == sorted(texts)
    assert len(load.latencies) == 40
    assert 0 < max(load.latencies) <= load.seconds <= sum(load.latencies)


async def test_a_refusal_ends_the_run(stub: EmbeddingStub) -> None:
    stub.status = 503
    with pytest.raises(ExceptionGroup) as error:
        await send(stub.url, requests(stub.url, "m", [["a"]]), clients=1)
    assert error.group_contains(RequestFailed, match="503")


async def test_vectors_are_those_of_the_texts(stub: EmbeddingStub) -> None:
    found = await asyncio.to_thread(EmbeddingServer(Server("stub", stub.url)).embed, ["a", "bcd"])
    assert found == [[1, 1], [1, 3]]


# ---- table -----------------------------------------------------------------------------------------------------------

CONDITIONS = {
    **CIRCUMSTANCES,
    "model": "m",
    "threads": 1,
    "rounds": 2,
    "versions": {"torch": "2"},
    "left_out": {"infinity": "no such file"},
}
BUSY = replace(AT_REST, clients=32)


def runs(scenario: Scenario, subject: str, *seconds: float, latency: float = 0.01) -> list[Run]:
    return [
        Run(number, scenario.name, subject, 100, each, [latency] * 100, cpu_seconds=0.2)
        for number, each in enumerate(seconds)
    ]


def test_table() -> None:
    measured = [
        *runs(AT_REST, "manta", 2, latency=0.0145),
        *runs(AT_REST, "plain", 1, latency=0.0101),
        *runs(BUSY, "manta", 1, 2),
        *runs(BUSY, "encode", 1, 1),
        *runs(BUSY, "plain", 3, 6),
    ]
    text = table(measured[:2], [AT_REST], ["manta", "plain"], CONDITIONS)
    assert "| 8 x 1 x 1 | plain | 100.0 | 10.1 / 10 | 2.00 | 0.50 (0.50–0.50) |" in text
    assert "4.4 ms above the plain server at the median; aim under 5: met." in text
    assert "Left out: infinity: no such file" in text
    text = table(measured[2:], [BUSY], ["manta", "encode", "plain"], CONDITIONS)
    assert "0.75 (0.50–1.00), aim 0.9: **missed** |" in text
    assert "3.00 (3.00–3.00), aim 3: met |" in text
    assert "at rest" not in text


def test_scenarios_have_names_of_their_own_and_work_for_every_client() -> None:
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
    assert all(scenario.requests >= scenario.clients for scenario in SCENARIOS)


# ---- subjects --------------------------------------------------------------------------------------------------------


class FakeSubject:
    """Takes a second for everything."""

    def __init__(self, name: str, vector: Sequence[float] = (1, 2)) -> None:
        self.name = name
        self.vector = list(vector)
        self.asked: list[Sequence[Sequence[str]]] = []

    def run(self, texts: Sequence[Sequence[str]], clients: int) -> Load:
        self.asked.append(texts)
        return Load(1.0, [0.5] * len(texts))

    def embed(self, texts: Sequence[str]) -> Vectors:
        return [self.vector for _ in texts]

    def cpu_seconds(self) -> float | None:
        return None


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a tokenizer that knows some words whole."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[CLS]", "[SEP]", "[UNK]", "river", "stone", "light"]
    tokenizer = Tokenizer(models.WordPiece({word: place for place, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 1), ("[CLS]", 0))
    (tmp_path / "m").mkdir()
    tokenizer.save(str(tmp_path / "m/tokenizer.json"))
    return tmp_path / "m"


def test_texts_have_as_many_tokens_as_the_scenario_says(model: Path) -> None:
    from tokenizers import Tokenizer

    texts = Texts(model)
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    for scenario in SCENARIOS:
        asked = texts.make(scenario, 0)
        assert (len(asked), {len(request) for request in asked}) == (scenario.requests, {scenario.per_request})
        assert len(tokenizer.encode(asked[0][0]).ids) == scenario.tokens
    assert texts.make(AT_REST, 0) == texts.make(AT_REST, 0) != texts.make(AT_REST, 1)


def test_all_are_asked_the_same_in_turns(model: Path) -> None:
    subjects = [FakeSubject("a"), FakeSubject("b")]
    found = list(measure(subjects, SCENARIOS[:2], 2, Texts(model)))
    assert [run.subject for run in found] == ["a", "b", "b", "a", "b", "a", "a", "b"]
    assert subjects[0].asked == subjects[1].asked
    assert found[0].inputs_per_second == SCENARIOS[0].inputs


def test_subjects_that_compute_something_else_are_not_compared(model: Path) -> None:
    texts = Texts(model)
    warm_up([FakeSubject("a"), FakeSubject("b", (2, 4))], SCENARIOS, texts)
    with pytest.raises(VectorsDiffer, match="c's"):
        warm_up([FakeSubject("a"), FakeSubject("c", (2, 1))], SCENARIOS, texts)


def test_least_cosine() -> None:
    assert least_cosine([[1, 0], [1, 1]], [[5, 0], [0, 1]]) == pytest.approx(0.5**0.5)


def test_launches(model: Path, tmp_path: Path) -> None:
    setup = Setup(model, tmp_path / "infinity", tmp_path, threads=1)
    models = Path(manta(setup, 8080).environ["MODELS_PATH"])
    (config,) = models.glob("*.yaml")
    assert parse(load_yaml(config.read_text())).parameters.model == "m"
    assert (models / "m/tokenizer.json").is_file()
    assert str(model) in infinity(setup, 8080).argv
    assert str(model) in plain(setup, 8080).argv
