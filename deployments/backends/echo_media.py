"""Engines of sound and images without a model, for tests and load work: what comes out tells what went in.

What they are told comes in the config's `options`, each `key:value`, beside those of `echo` that concern loading:
`delay` (seconds: a sentence, a second of audio heard or made), `answer` (what is heard). Images have none: their
deployment knows all options there are.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from deployments.backends.base import Picture, Progress, Segment, SegmentGroup, SpeechSpan, TranscriptionRequest
from deployments.backends.echo import load_options
from deployments.config import ModelConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOUD = 0.1
"""Samples beyond it, in either direction, are speech."""


class _EchoMedia:
    """What they have in common."""

    sample_rate = 16_000
    max_seconds = 600.0
    parallel = 1

    def __init__(self, options: dict[str, str]) -> None:
        self._delay = float(options.get("delay", 0))
        self._answer = options.get("answer")

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> Self:
        return cls(load_options(config, progress))

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        """Nothing to free."""


class EchoVoice(_EchoMedia):
    """A tenth of a second of a steady level for each word."""

    voices: Sequence[str] = ()
    languages: Sequence[str] = ()

    def synthesize(self, text: str, *, voice: str | None, language: str | None, speed: float) -> "NDArray[np.float32]":
        time.sleep(self._delay)
        return np.full(round(len(text.split()) * self.sample_rate / 10 / speed), 0.5, np.float32)


class EchoComposer(_EchoMedia):
    """A tone that rises, as long as was asked for."""

    def compose(
        self,
        text: str,
        *,
        seconds: float,
        guidance: float | None,
        do_sample: bool | None,
        seed: int | None,
        stopped: Callable[[], bool],
    ) -> "NDArray[np.float32]":
        blocks = [np.zeros(0)]
        length = round(seconds * self.sample_rate)
        for start in range(0, length, self.sample_rate):
            if stopped():
                break
            time.sleep(self._delay)
            place = np.arange(start, min(start + self.sample_rate, length)) / self.sample_rate
            blocks.append(np.sin(2 * np.pi * (220 + 10 * place) * place) / 2)
        return np.concatenate(blocks)[None].astype(np.float32)


class EchoTranscriber(_EchoMedia):
    """One segment a second, which says how loud that second is, or the words of `answer` in turn."""

    def transcribe(
        self, audio: "Iterator[NDArray[np.float32]]", request: TranscriptionRequest, stopped: Callable[[], bool]
    ) -> Iterator[SegmentGroup]:
        samples = np.concatenate([np.zeros(0, np.float32), *audio])
        words = (self._answer or "").split()
        yield SegmentGroup([], language=request.language or "en")
        for number, start in enumerate(range(0, samples.size, self.sample_rate)):
            if stopped():
                return
            time.sleep(self._delay)
            second = samples[start : start + self.sample_rate]
            text = words[number % len(words)] if words else f"{np.abs(second).max():.2f}"
            yield SegmentGroup([self._segment(number, second.size, text)])
        yield SegmentGroup([], duration=samples.size / self.sample_rate)

    def _segment(self, number: int, samples: int, text: str) -> Segment:
        return Segment(
            id=number,
            start=float(number),
            end=number + samples / self.sample_rate,
            text=f" {text}",
            tokens=list(text.encode()),
            temperature=0.0,
            avg_logprob=0.0,
            compression_ratio=1.0,
            no_speech_prob=0.0,
        )


class EchoDetector(_EchoMedia):
    """Speech is from the first loud sample to the last."""

    def detect(self, samples: "NDArray[np.float32]") -> list[SpeechSpan]:
        time.sleep(self._delay * samples.size / self.sample_rate)
        loud = np.flatnonzero(np.abs(samples) > LOUD)
        if not loud.size:
            return []
        return [SpeechSpan(float(loud[0]) / self.sample_rate, float(loud[-1] + 1) / self.sample_rate)]


class EchoPainter(_EchoMedia):
    """One grey, which is the seed's; where an image is changed, the mean of that and the image."""

    default_width = default_height = 64
    default_steps = 2
    default_guidance = 7.5
    multiple = 8
    paints_over = inpaints = previews = True
    batch = 4

    def paint(
        self, batch: Sequence[Picture], *, step: Callable[..., Sequence[bool]]
    ) -> "list[NDArray[np.uint8] | None]":
        images = [_painted(picture) for picture in batch]
        for done in range(1, batch[0].steps + 1):
            if not any(step(done, batch[0].steps, images.__getitem__)):
                return [None] * len(batch)
        return list(images)


def _painted(picture: Picture) -> "NDArray[np.uint8]":
    grey: NDArray[Any] = np.full((picture.height, picture.width, 3), picture.seed % 256, np.uint8)
    if picture.image is None:
        return grey
    painted = (grey.astype(int) + picture.image) // 2
    where = True if picture.mask is None else picture.mask[..., None] > 0
    return np.where(where, painted, picture.image).astype(np.uint8)
