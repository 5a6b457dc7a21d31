"""The benchmark of speech: its tables, its measure of texts, and what it asks."""

import wave
from pathlib import Path

import pytest

from benchmarks import speech
from benchmarks.speech_runs import SpokenText, Transcribed, tables, word_error_rate
from tests.unit.benchmarks.conftest import CIRCUMSTANCES

CONDITIONS = {
    **CIRCUMSTANCES,
    "versions": {"ray": "2"},
    "whisper": "tiny",
    "voice": "joe",
    "threads": 1,
    "rounds": 2,
}


def heard(subject: str, *seconds: float, text: str = "a b c d") -> list[Transcribed]:
    return [Transcribed(i, "one file", subject, 60.0, took, 2 * took, [text]) for i, took in enumerate(seconds)]


def test_tables() -> None:
    runs = [*heard("manta", 6.0, 6.0), *heard("faster-whisper", 6.0, 12.0, text="a b x d"), *heard("slower", 5.0, 5.0)]
    spoken = [SpokenText(0, 0.1, 1.1, 1.0, 1.0), SpokenText(1, 0.3, 1.3, 1.0, 1.0)]
    text = tables(runs, spoken, CONDITIONS)
    assert "| one file | manta | 0.100 | 0.200 |  |  |" in text
    assert "| one file | faster-whisper | 0.150 | 0.300 | 25.0% | 1.50 (1.00–2.00), aim 0.95: met |" in text
    assert "| one file | slower | 0.083 | 0.167 | 0.0% | 0.83 (0.83–0.83), aim 0.95: **missed** |" in text
    assert "| first audio, streamed | 0.20 (0.10–0.30) |" in text
    assert text.endswith("First audio ÷ Piper alone: 0.20 (0.10–0.30), aim under 0.2: **missed**.")


@pytest.mark.parametrize(
    ("reference", "text", "rate"),
    [
        ("a b c d", "A B c d", 0.0),
        ("a b c d", "a c d", 0.25),
        ("a b c d", "a b b c d", 0.25),
        ("a b c d", "b c d a", 0.5),
        ("a b", "", 1.0),
        ("", "", 0.0),
        ("", "a", 1.0),
    ],
)
def test_word_error_rate(reference: str, text: str, rate: float) -> None:
    assert word_error_rate(reference, text) == rate


def test_scenarios(tmp_path: Path) -> None:
    if not speech.CLIPS.is_dir():
        pytest.skip("pocketsphinx-testdata is not installed")
    for scenario, lengths in zip(speech.scenarios(tmp_path), ([60.0], [5.0] * 16), strict=True):
        assert [seconds(path) for path in scenario.files] == lengths
        assert scenario.audio_seconds == sum(lengths)
        assert len({path.read_bytes() for path in scenario.files}) == len(lengths)


def seconds(path: Path) -> float:
    with wave.open(str(path)) as file:
        return float(file.getnframes() / file.getframerate())


def test_the_text_has_ten_sentences() -> None:
    assert speech.TEXT.count(".") == 10
