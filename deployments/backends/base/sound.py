"""Text to music and sound: its engine, and what crosses a handle."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Composer(Protocol):
    """A loaded generator of music and sounds."""

    sample_rate: int
    max_seconds: float

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
        """Samples [channels, length]. Blocking; ends early when `stopped()` says so. None: the model's own value."""
        ...

    def stats(self) -> dict[str, float]: ...

    def close(self) -> None: ...


@dataclass(slots=True, kw_only=True)
class SoundRequest:
    """Text to music or sound. None: as the model's own files say."""

    text: str
    seconds: float | None = None
    guidance: float | None = None
    do_sample: bool | None = None
    seed: int | None = None
    format: str = "wav"
    tenant: str = ""
