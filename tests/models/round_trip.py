"""What a voice says, read back by Whisper."""

import io
from functools import cache

import numpy as np
from faster_whisper import WhisperModel
from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

from deployments.backends.base import SpeechRequest
from deployments.speech import SpeechModel
from tests.models.conftest import installed

SENTENCES = (
    "The old man walked slowly along the river and watched the boats go by.",
    "She opened the window because the room was warm and full of smoke.",
    "Please bring three apples, two pears and a loaf of bread from the market.",
    "The train to the city leaves at half past seven every morning.",
    "Nobody knew why the lights in the house were still burning.",
)


async def word_error_rate(model: SpeechModel, name: str = "wav") -> float:
    """Of the five sentences, each a request, pooled; after Whisper's own normaliser."""
    errors = words = 0
    for sentence in SENTENCES:
        audio = await model.speak(SpeechRequest(text=sentence, format=name))
        said, heard = _words(sentence), _words(_transcribed(audio.data))
        errors += _distance(said, heard)
        words += len(said)
    return errors / words


@cache
def _whisper() -> WhisperModel:
    return WhisperModel(str(installed("whisper-tiny-en") / "whisper-tiny-en"), cpu_threads=1, compute_type="int8")


def _transcribed(audio: bytes) -> str:
    segments, _ = _whisper().transcribe(io.BytesIO(audio), beam_size=5)
    return " ".join(segment.text for segment in segments)


def _words(text: str) -> list[str]:
    normalised: str = EnglishTextNormalizer({})(text)
    return normalised.split()


def _distance(said: list[str], heard: list[str]) -> int:
    """Words inserted, deleted or replaced (Levenshtein)."""
    row = np.arange(len(heard) + 1)
    for word in said:
        above, row = row, np.full(len(heard) + 1, row[0] + 1)
        for place, other in enumerate(heard, 1):
            row[place] = min(above[place] + 1, row[place - 1] + 1, above[place - 1] + (word != other))
    return int(row[-1])
