"""Text to speech: its engine, and what crosses a handle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Voice(Protocol):
    """A loaded speech synthesiser."""

    sample_rate: int
    """Hz."""
    voices: Sequence[str]
    """Names of its voices or speakers; empty: it has one."""
    languages: Sequence[str]
    """Codes of the languages it can be asked for; empty: it has one."""
    parallel: int
    """Sentences that may be synthesised at once, in so many threads."""

    def synthesize(self, text: str, *, voice: str | None, language: str | None, speed: float) -> "NDArray[np.float32]":
        """One sentence or a few, as mono samples from -1 to 1. Blocking.

        `speed` 2 is twice as fast. Raises InvalidRequest for a voice or language that it doesn't have, naming those
        that it has, and EngineError.
        """
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class SpeechRequest:
    """Text to speech. None: as the model's config says."""

    text: str
    voice: str | None = None
    language: str | None = None
    speed: float = 1.0
    format: str = "wav"
    """A row of `deployments.audio_formats.FORMATS`."""
    tenant: str = ""
    request_id: str = ""


@dataclass(slots=True)
class AudioChunk:
    """Encoded audio, as much as was ready; the chunks one after another are the file."""

    data: bytes
