"""The rules by which frames become spans of speech; `tests/models/test_silero_vad.py` has the package's to compare."""

import pytest

from deployments.backends.speech_spans import Span, SpanRules, find_spans

FRAME, RATE = 512, 16_000
PLAIN = SpanRules(min_speech_duration_ms=0, min_silence_duration_ms=0, speech_pad_ms=0)
"""A span for every run of frames with speech."""


def spans(marks: str, rules: SpanRules = PLAIN, length: int | None = None) -> list[Span]:
    """`#` is speech, `.` silence, `-` neither. Spans in frames where they fall on frames."""
    probabilities = [{"#": 0.9, "-": 0.4, ".": 0.1}[mark] for mark in marks]
    return find_spans(probabilities, FRAME, len(marks) * FRAME if length is None else length, RATE, rules)


def frames(*bounds: tuple[int, int]) -> list[Span]:
    return [(start * FRAME, end * FRAME) for start, end in bounds]


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ("", []),
        ("....", []),
        ("----", []),
        ("####", [(0, 4)]),
        ("..##..#.", [(2, 4), (6, 7)]),
        ("..#--#-.", [(2, 7)]),  # neither goes on with what was there
        ("--#.", [(2, 3)]),
    ],
)
def test_speech_begins_at_the_threshold_and_ends_below_the_lower_one(
    marks: str, expected: list[tuple[int, int]]
) -> None:
    assert spans(marks) == frames(*expected)


def test_speech_lasts_until_the_end_of_the_recording_not_of_its_last_frame() -> None:
    assert spans("..##", length=4 * FRAME - 100) == [(2 * FRAME, 4 * FRAME - 100)]


def test_a_short_silence_ends_nothing() -> None:
    rules = SpanRules(min_speech_duration_ms=0, min_silence_duration_ms=3 * 32, speech_pad_ms=0)
    assert spans("#..#....#", rules) == frames((0, 4), (8, 9))
    assert spans("#.--.#", rules) == frames((0, 1), (5, 6)), "neither is silence where silence was"


def test_short_speech_is_dropped() -> None:
    rules = SpanRules(min_speech_duration_ms=2 * 32, min_silence_duration_ms=0, speech_pad_ms=0)
    assert spans(".##.###.##", rules) == frames((4, 7))


def test_spans_grow_but_never_into_each_other_or_out_of_the_recording() -> None:
    rules = SpanRules(min_speech_duration_ms=0, min_silence_duration_ms=0, speech_pad_ms=2 * 32)
    assert spans("...#.....#...", rules) == frames((1, 6), (7, 12))
    assert spans(".#..#", rules) == frames((0, 3), (3, 5))
    assert spans("#.#", rules) == [(0, FRAME + 256), (FRAME + 256, 3 * FRAME)]


def test_thresholds_can_be_set() -> None:
    assert spans("#--.", SpanRules(threshold=0.3, min_speech_duration_ms=0, min_silence_duration_ms=0, speech_pad_ms=0))
    rules = SpanRules(neg_threshold=0.45, min_speech_duration_ms=0, min_silence_duration_ms=0, speech_pad_ms=0)
    assert spans("##--##", rules) == frames((0, 2), (4, 6))
