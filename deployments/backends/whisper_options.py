"""`options:` of a model that faster-whisper runs: how it decodes, finds speech, and shares batches."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deployments.backends.options import read_options
from deployments.config import ModelConfig

LADDER = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Temperatures tried one after another while an answer is repetitive or improbable: Whisper's own."""

CPU_BATCH = 4
"""On one thread the decoder took 1.8 s for 8 windows of base one by one, 1.7 by fours, 2.0 at once; the encoder 6."""
GPU_BATCH = 16


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError("it must be 1 or more")
    return number


def _length(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError("it must be 0 or more")
    return number


def _number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError("it must be finite")
    return number


def _positive(text: str) -> float:
    if not (number := float(text)) > 0:
        raise ValueError("it must be more than 0")
    return number


def _share(text: str) -> float:
    if not 0 <= (number := float(text)) <= 1:
        raise ValueError("it must be from 0 to 1")
    return number


_DECODING: Mapping[str, Callable[[str], Any]] = {
    "beam_size": _count,
    "best_of": _count,
    "patience": _positive,
    "length_penalty": _number,
    "repetition_penalty": _positive,
    "no_repeat_ngram_size": _length,
    "compression_ratio_threshold": _positive,
    "log_prob_threshold": _number,
    "no_speech_threshold": _share,
    "condition_on_previous_text": bool,
    "hotwords": str,
    "hallucination_silence_threshold": _positive,
    "vad_filter": bool,
}
"""Arguments of faster-whisper's `transcribe`, by its names and with its defaults."""
_VAD: Mapping[str, Callable[[str], Any]] = {
    "threshold": _share,
    "min_speech_duration_ms": _length,
    "min_silence_duration_ms": _length,
    "speech_pad_ms": _length,
}
"""Fields of its `VadOptions`; here with `vad_` before them."""
_OURS: Mapping[str, Callable[[str], Any]] = {"batch_size": _count, "max_seconds": _positive}
KNOWN = {**_DECODING, **{f"vad_{name}": read for name, read in _VAD.items()}, **_OURS}


@dataclass(frozen=True, slots=True)
class WhisperOptions:
    batch_size: int | None = None
    """Windows of 30 seconds that are decoded at once. None: CPU_BATCH or GPU_BATCH."""
    max_seconds: float = 12 * 3600.0
    """Of one file. A file of a megabyte can hold days of silence."""
    decoding: dict[str, Any] = field(default_factory=dict)
    vad: dict[str, Any] = field(default_factory=dict)


def whisper_options(config: ModelConfig) -> WhisperOptions:
    """Raises ConfigInvalid that names the key."""
    read = read_options(config, KNOWN)
    return WhisperOptions(
        **{name: read[name] for name in _OURS if name in read},
        decoding={name: read[name] for name in _DECODING if name in read},
        vad={name: read[f"vad_{name}"] for name in _VAD if f"vad_{name}" in read},
    )
