"""Formats of audio that is sent: names of the API → what stands in the answer's head. Standard library only."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class AudioFormat:
    media_type: str
    suffix: str
    """Of a file name."""


FORMATS: dict[str, AudioFormat] = {
    "wav": AudioFormat("audio/wav", "wav"),
    "mp3": AudioFormat("audio/mpeg", "mp3"),
    "opus": AudioFormat("audio/ogg", "ogg"),
    "aac": AudioFormat("audio/aac", "aac"),
    "flac": AudioFormat("audio/flac", "flac"),
    "pcm": AudioFormat("audio/pcm", "pcm"),
}
"""OpenAI's names. `pcm`: 16-bit little-endian mono samples at the voice's rate, without a header."""
