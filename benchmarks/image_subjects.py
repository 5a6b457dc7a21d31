"""Who `benchmarks.images` compares: our server, and the pipeline alone; how each is started and asked."""

import asyncio
import json
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.embedding_load import Load, ask, send
from benchmarks.library_process import LibraryProcess, library_process
from benchmarks.servers import Launch, Server, end_of, manta_with, running

NAME = "bench"
"""The model's id in requests."""
GUIDANCE = 7.5

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Setup:
    """What everyone is given alike."""

    model: Path
    """A pipeline's directory, as diffusers saves it."""
    folder: Path
    """For logs and our server's data."""
    steps: int = 15
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """One image."""

    prompt: str
    seed: int


class Subject(Protocol):
    """Somebody who paints."""

    name: str

    def run(self, jobs: Sequence[Job], clients: int) -> Load:
        """Each job a request, sent by so many clients. The pipeline alone paints one after the other."""
        ...

    def paint(self, job: Job) -> Pixels:
        """[height, width, 3]."""
        ...

    def cpu_seconds(self) -> float | None:
        """CPU time so far, of all processes."""
        ...


class ImageServer:
    """One that answers OpenAI's request."""

    def __init__(self, server: Server, steps: int) -> None:
        self.name = server.name
        self.cpu_seconds = server.cpu_seconds
        self._server = server
        self._steps = steps

    def run(self, jobs: Sequence[Job], clients: int) -> Load:
        try:
            return asyncio.run(send(self._server.url, [self._payload(job) for job in jobs], clients))
        except Exception as error:
            error.add_note(f"{self.name}:\n{end_of(self._server.log) if self._server.log else self._server.url}")
            raise

    def paint(self, job: Job) -> Pixels:
        answer = json.loads(asyncio.run(ask(self._server.url, self._payload(job))))
        with Image.open(BytesIO(b64decode(answer["data"][0]["b64_json"]))) as image:
            return np.asarray(image.convert("RGB"))

    def _payload(self, job: Job) -> bytes:
        body = {
            "model": NAME,
            "prompt": job.prompt,
            "seed": job.seed,
            "step": self._steps,
            "cfg_scale": GUIDANCE,
            "response_format": "b64_json",
        }
        content = json.dumps(body).encode()
        head = (
            f"POST /v1/images/generations HTTP/1.1\r\nHost: {urlsplit(self._server.url).netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        return head.encode() + content


class Pipeline:
    """The library alone, an image after the other."""

    name = "pipeline"

    def __init__(self, process: LibraryProcess, steps: int) -> None:
        self._process = process
        self._steps = steps

    def run(self, jobs: Sequence[Job], clients: int) -> Load:
        return Load(float(self._answer(jobs)["seconds"]))

    def paint(self, job: Job) -> Pixels:
        return np.array(self._answer([job], pixels=True)["pixels"][0], np.uint8)

    def cpu_seconds(self) -> float:
        return self._process.cpu_seconds()

    def _answer(self, jobs: Sequence[Job], *, pixels: bool = False) -> dict[str, Any]:
        asked = {
            "prompts": [job.prompt for job in jobs],
            "seeds": [job.seed for job in jobs],
            "steps": self._steps,
            "guidance": GUIDANCE,
            "pixels": pixels,
        }
        return self._process.answer(asked)


@contextmanager
def pipeline(setup: Setup) -> Iterator[Subject]:
    """The library in a process of its own, with the model loaded."""
    with library_process("benchmarks.paint_process", str(setup.model), threads=setup.threads) as process:
        yield Pipeline(process, setup.steps)


@contextmanager
def manta(setup: Setup) -> Iterator[Subject]:
    """Our server. Raises ServerFailed."""
    with running("manta", partial(launch, setup), setup.threads, setup.folder / "manta.log") as server:
        yield ImageServer(server, setup.steps)


def launch(setup: Setup, port: int) -> Launch:
    """With the model installed as a user's gallery would."""
    models = setup.folder / "models"
    models.mkdir()
    (models / setup.model.name).symlink_to(setup.model.resolve())
    config = {"name": NAME, "backend": "diffusers", "parameters": {"model": setup.model.name}}
    return manta_with(config, models, setup.threads, port)


SUBJECTS: Mapping[str, Callable[[Setup], AbstractContextManager[Subject]]] = {"manta": manta, "pipeline": pipeline}
