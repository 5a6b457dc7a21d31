"""A long recording, read as a stream, in sections of some minutes that end where nobody speaks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from faster_whisper.vad import VadOptions, get_speech_timestamps

if TYPE_CHECKING:
    from numpy.typing import NDArray

SECTION_S = 300
"""19 MB of samples at 16 kHz: ten full windows, so that batches are full too."""
SEARCHED_S = 30
"""At the end of a section, for the silence in which it ends."""
SHORTEST_SILENCE_MS = 160
"""As between two windows of faster-whisper's batched pipeline."""


@dataclass(frozen=True, slots=True)
class Section:
    start: float
    """Seconds from the beginning of the recording."""
    samples: "NDArray[np.float32]"


def sections(blocks: "Iterator[NDArray[np.float32]]", rate: int) -> Iterator[Section]:
    """All of the recording, whose blocks are read as they are needed."""
    pieces: list[NDArray[np.float32]] = []
    waiting = given = 0
    for block in blocks:
        pieces.append(block)
        waiting += block.size
        while waiting >= SECTION_S * rate:
            samples = np.concatenate(pieces)
            end = _end(samples[: SECTION_S * rate], rate)
            yield Section(given / rate, samples[:end])
            pieces = [samples[end:].copy()]  # a view would keep the whole section
            given += end
            waiting = pieces[0].size
    if waiting:
        yield Section(given / rate, np.concatenate(pieces))


def _end(samples: "NDArray[np.float32]", rate: int) -> int:
    """Middle of the longest silence near the end; the end itself where there is none."""
    searched = samples[-SEARCHED_S * rate :]
    options = VadOptions(min_silence_duration_ms=SHORTEST_SILENCE_MS, speech_pad_ms=0)
    spoken = get_speech_timestamps(searched, options, rate)
    edges = [0, *(edge for span in spoken for edge in (span["start"], span["end"])), searched.size]
    silences = [(end - start, (start + end) // 2) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    length, middle = max(silences)
    return samples.size - searched.size + middle if length else samples.size
