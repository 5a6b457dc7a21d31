"""Who `benchmarks.speech` compares: our server, and the libraries alone; how each is started and asked."""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import httpx
import yaml

from benchmarks.library_process import LibraryProcess, library_process
from benchmarks.servers import Launch, Server, manta_with, running

WHISPER, VOICE = "whisper", "voice"
"""The models' ids in requests."""
ANSWER_LIMIT_S = 300


@dataclass(frozen=True, slots=True)
class Setup:
    """What everyone is given alike."""

    whisper: Path
    """Directory of a Whisper in CTranslate2's format."""
    voice: Path
    """A Piper voice's .onnx file."""
    folder: Path
    """For logs and our server's data."""
    threads: int = 1
    compute_type: str = "int8"
    """Of Whisper's weights, as CTranslate2 names it."""


@dataclass(frozen=True, slots=True)
class Heard:
    seconds: float
    """From the first request to the last text."""
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Spoken:
    """Seconds from the request."""

    first: float
    """To the first byte of audio."""
    whole: float
    """To the last."""


class Subject(Protocol):
    name: str

    def transcribe(self, files: Sequence[Path]) -> Heard:
        """All files, at once where it can."""
        ...

    def cpu_seconds(self) -> float | None:
        """CPU time so far, of all processes."""
        ...


class Manta:
    """Our server over HTTP."""

    name = "manta"

    def __init__(self, server: Server) -> None:
        self._url = server.url
        self.cpu_seconds = server.cpu_seconds

    def transcribe(self, files: Sequence[Path]) -> Heard:
        return asyncio.run(self._transcribe([path.read_bytes() for path in files]))

    def speak(self, text: str, *, stream: bool) -> Spoken:
        return asyncio.run(self._speak({"model": VOICE, "input": text, "response_format": "pcm", "stream": stream}))

    async def _transcribe(self, contents: Sequence[bytes]) -> Heard:
        async with self._client() as client:

            async def ask(content: bytes) -> str:
                answer = await client.post(
                    "/v1/audio/transcriptions", data={"model": WHISPER}, files={"file": ("clip.wav", content)}
                )
                answer.raise_for_status()
                return str(answer.json()["text"])

            started = time.perf_counter()
            texts = await asyncio.gather(*map(ask, contents))
            return Heard(time.perf_counter() - started, texts)

    async def _speak(self, body: dict[str, Any]) -> Spoken:
        async with self._client() as client:
            started = time.perf_counter()
            async with client.stream("POST", "/v1/audio/speech", json=body) as answer:
                answer.raise_for_status()
                arrivals = [time.perf_counter() - started async for piece in answer.aiter_raw() if piece]
        return Spoken(arrivals[0], arrivals[-1])

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self._url, timeout=ANSWER_LIMIT_S, trust_env=False)


class Library:
    """faster-whisper, file after file, as its `WhisperModel` does or as its batched pipeline does; and Piper."""

    def __init__(self, process: LibraryProcess, *, batched: bool) -> None:
        self.name = "batched pipeline" if batched else "faster-whisper"
        self._process = process
        self._batched = batched

    def transcribe(self, files: Sequence[Path]) -> Heard:
        answer = self._process.answer({"transcribe": [str(path) for path in files], "batched": self._batched})
        return Heard(answer["seconds"], answer["texts"])

    def speak(self, text: str) -> float:
        """Seconds that Piper takes for the whole text."""
        return float(self._process.answer({"speak": text})["seconds"])

    def cpu_seconds(self) -> float:
        return self._process.cpu_seconds()


@contextmanager
def libraries(setup: Setup) -> Iterator[tuple[Library, Library]]:
    """One process with the models loaded; its two ways to transcribe."""
    arguments = (str(setup.whisper), setup.compute_type, str(setup.voice))
    with library_process("benchmarks.speech_process", *arguments, threads=setup.threads) as process:
        yield Library(process, batched=False), Library(process, batched=True)


@contextmanager
def manta(setup: Setup) -> Iterator[Manta]:
    """Our server, with the models installed as a user's gallery would."""
    with running("manta", partial(_launch, setup), setup.threads, setup.folder / "manta.log") as server:
        yield Manta(server)


def _launch(setup: Setup, port: int) -> Launch:
    models = setup.folder / "models"
    models.mkdir()
    for path in (setup.whisper, setup.voice, Path(f"{setup.voice}.json")):
        (models / path.name).symlink_to(path.resolve())
    voice = {
        "name": VOICE,
        "backend": "piper",
        "known_usecases": ["tts"],
        "parameters": {"model": setup.voice.name},
    }
    (models / f"{VOICE}.yaml").write_text(yaml.safe_dump(voice), encoding="utf-8")
    whisper = {
        "name": WHISPER,
        "backend": "faster-whisper",
        "known_usecases": ["transcript"],
        "quantization": setup.compute_type,
        "parameters": {"model": setup.whisper.name, "language": "en"},
    }
    return manta_with(whisper, models, setup.threads, port)
