"""Voice activity detection: its engine, and what crosses a handle."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class VoiceActivityDetector(Protocol):
    """Finds speech."""

    sample_rate: int

    def detect(self, samples: "NDArray[np.float32]") -> "list[SpeechSpan]":
        """Where somebody speaks in mono samples of `sample_rate`. Blocking, thread-safe."""
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class VadRequest:
    audio: "NDArray[np.float32]"
    """Mono samples from -1 to 1."""
    sample_rate: int = 16_000
    tenant: str = ""


@dataclass(slots=True)
class SpeechSpan:
    """Times in seconds."""

    start: float
    end: float
