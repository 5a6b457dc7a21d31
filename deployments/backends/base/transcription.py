"""Speech to text: its engine, and what crosses a handle."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Transcriber(Protocol):
    """Turns speech into text."""

    sample_rate: int
    """Hz."""
    parallel: int
    """Files that may be transcribed at once, in so many threads."""
    max_seconds: float
    """Of one file."""

    def transcribe(
        self, audio: "Iterator[NDArray[np.float32]]", request: "TranscriptionRequest", stopped: Callable[[], bool]
    ) -> "Iterator[SegmentGroup]":
        """Segments of a file, whose mono samples of `sample_rate` come in blocks. Blocking; ends early when
        `stopped()` says so.

        Raises InvalidRequest for a language that the model doesn't know, EngineError, and what reading `audio` raises.
        """
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class TranscriptionRequest:
    """Speech to text. None: as the model's config says, or its engine's default."""

    audio: "NDArray[np.uint8]"
    """The file's bytes, of any format that FFmpeg reads; an array, so that it crosses without being copied."""
    translate: bool = False
    """Into English."""
    language: str | None = None
    """ISO 639-1 code; None: detected."""
    prompt: str | None = None
    temperature: float | None = None
    """0: greedy, with the engine's fallback to higher ones when that goes wrong."""
    word_timestamps: bool = False
    segment_timestamps: bool = True
    """False: the text alone counts, and a segment may be half a minute long. In long files that is quicker."""
    tenant: str = ""
    request_id: str = ""


@dataclass(slots=True)
class Word:
    """Times in seconds."""

    word: str
    start: float
    end: float
    probability: float


@dataclass(slots=True)
class Segment:
    """A piece of a transcription; OpenAI's fields. Times in seconds."""

    id: int
    start: float
    end: float
    text: str
    tokens: list[int]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float
    seek: int = 0
    words: list[Word] = field(default_factory=list)


@dataclass(slots=True)
class SegmentGroup:
    """Segments that were ready together. The first group, which may be empty, says language and duration."""

    segments: list[Segment]
    language: str | None = None
    duration: float | None = None
    """Seconds of audio; None until it is known, on the last group at the latest."""


@dataclass(slots=True)
class Transcription:
    """The stream of segments, collected."""

    language: str
    duration: float
    segments: list[Segment]
