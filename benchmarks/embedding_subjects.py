"""Who `benchmarks.embeddings` compares: three servers, and the library alone; how each is started and asked."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from benchmarks import embedding_load
from benchmarks.embedding_load import Load
from benchmarks.library_process import OFFLINE, LibraryProcess, library_process
from benchmarks.servers import HOST, Launch, Server, end_of, manta_with, running

NAME = "bench"
"""The model's id in requests."""
BATCH_SIZES = (8, 32, 128)
"""Of `encode`, whose default is 32: the library alone runs with the one that is best for the length."""

Vectors = list[list[float]]


@dataclass(frozen=True, slots=True)
class Setup:
    """What everyone is given alike."""

    model: Path
    """The model's directory, as Sentence-Transformers saves it."""
    infinity: Path
    """Virtual environment of infinity-emb."""
    folder: Path
    """For logs and our server's data."""
    threads: int = 1


class Subject(Protocol):
    """Somebody who embeds."""

    name: str

    def run(self, texts: Sequence[Sequence[str]], clients: int) -> Load:
        """The texts of each request, sent by so many clients. The library alone gets them all at once."""
        ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...

    def cpu_seconds(self) -> float | None:
        """CPU time so far, of all processes."""
        ...


class EmbeddingServer:
    """One that answers OpenAI's request."""

    def __init__(self, server: Server) -> None:
        self.name = server.name
        self.cpu_seconds = server.cpu_seconds
        self._server = server

    def run(self, texts: Sequence[Sequence[str]], clients: int) -> Load:
        payloads = embedding_load.requests(self._server.url, NAME, texts)
        try:
            return asyncio.run(embedding_load.send(self._server.url, payloads, clients))
        except Exception as error:
            error.add_note(f"{self.name}:\n{end_of(self._server.log) if self._server.log else self._server.url}")
            raise

    def embed(self, texts: Sequence[str]) -> Vectors:
        (payload,) = embedding_load.requests(self._server.url, NAME, [texts])
        answer = json.loads(asyncio.run(embedding_load.ask(self._server.url, payload)))
        return [item["embedding"] for item in sorted(answer["data"], key=lambda item: item["index"])]


class Library:
    """`SentenceTransformer.encode`, given everything at once, which it sorts by length: no server can be faster."""

    name = "encode"

    def __init__(self, process: LibraryProcess) -> None:
        self._process = process
        self._batch_sizes: dict[int, int] = {}

    def run(self, texts: Sequence[Sequence[str]], clients: int) -> Load:
        every = [text for request in texts for text in request]
        return Load(float(self._answer(every, self._batch_size(every))["seconds"]))

    def embed(self, texts: Sequence[str]) -> Vectors:
        rows: Vectors = self._answer(texts, 32, rows=True)["rows"]
        return rows

    def cpu_seconds(self) -> float:
        return self._process.cpu_seconds()

    def _batch_size(self, texts: Sequence[str]) -> int:
        """The fastest one for texts of this many words, tried out once."""
        words = texts[0].count(" ")
        if words not in self._batch_sizes:
            sample = (list(texts) * 128)[: 128 if words < 200 else 32]
            took = {size: self._answer(sample, size)["seconds"] for size in BATCH_SIZES}
            self._batch_sizes[words] = min(took, key=lambda size: took[size])
        return self._batch_sizes[words]

    def _answer(self, texts: Sequence[str], batch_size: int, *, rows: bool = False) -> dict[str, Any]:
        return self._process.answer({"texts": texts, "batch_size": batch_size, "rows": rows})


@contextmanager
def library(setup: Setup) -> Iterator[Subject]:
    """The library in a process of its own, with the model loaded."""
    with library_process("benchmarks.encode_process", str(setup.model), threads=setup.threads) as process:
        yield Library(process)


@contextmanager
def served(name: str, launch: Callable[[Setup, int], Launch], setup: Setup) -> Iterator[Subject]:
    """A server that is up. Raises ServerFailed."""
    with running(name, partial(launch, setup), setup.threads, setup.folder / f"{name}.log") as server:
        yield EmbeddingServer(server)


def manta(setup: Setup, port: int) -> Launch:
    """Our server, with the model installed as a user's gallery would."""
    models = setup.folder / "models"
    models.mkdir()
    (models / setup.model.name).symlink_to(setup.model.resolve())
    config = {
        "name": NAME,
        "backend": "sentence-transformers",
        "known_usecases": ["embeddings"],
        "parameters": {"model": setup.model.name},
    }
    return manta_with(config, models, setup.threads, port)


def infinity(setup: Setup, port: int) -> Launch:
    """infinity-emb, which batches dynamically too; its defaults, but for its log of every request."""
    options = {
        "model-id": setup.model,
        "served-model-name": NAME,
        "engine": "torch",
        "device": "cpu",
        "host": HOST,
        "port": port,
        "log-level": "warning",
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    environ = {**OFFLINE, "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    return Launch([str(setup.infinity / "bin/infinity_emb"), "v2", *flags], "/health", environ)


def plain(setup: Setup, port: int) -> Launch:
    """FastAPI and `encode`, one request after the other."""
    arguments = (str(setup.model), HOST, str(port), str(setup.threads))
    return Launch([sys.executable, "-m", "benchmarks.encode_server", *arguments], "/health", OFFLINE)


SUBJECTS: Mapping[str, Callable[[Setup], AbstractContextManager[Subject]]] = {
    "encode": library,
    "manta": partial(served, "manta", manta),
    "infinity": partial(served, "infinity", infinity),
    "plain": partial(served, "plain", plain),
}
