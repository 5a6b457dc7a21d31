"""Words → segments of about a sentence."""

from deployments.backends.base import Word
from deployments.backends.word_segments import LONGEST_S, split_words


def words(*timed: tuple[str, float, float]) -> list[Word]:
    return [Word(word, start, end, 1.0) for word, start, end in timed]


def texts(given: list[Word]) -> list[str]:
    return ["".join(word.word for word in segment) for segment in split_words(given)]


def test_sentences_end_segments_and_abbreviations_do_not() -> None:
    given = words((" Mr.", 0, 0.4), (" John", 0.5, 1), (' left."', 1.5, 2.2), (" Where", 2.3, 2.5), (" to?", 2.5, 4.6),
                  (" Home", 4.7, 5))  # fmt: skip
    assert texts(given) == [' Mr. John left."', " Where to?", " Home"]


def test_a_pause_ends_a_segment() -> None:
    assert texts(words((" one", 0, 2.5), (" two", 3.4, 4), (" three", 5.1, 6))) == [" one two", " three"]


def test_no_segment_is_longer_than_it_may_be_and_no_word_is_lost() -> None:
    given = words(*((f" {i}", i * 0.9, i * 0.9 + 0.8) for i in range(100)))
    segments = list(split_words(given))
    assert [word for segment in segments for word in segment] == given
    assert all(segment[-1].end - segment[0].start <= LONGEST_S for segment in segments)
    assert max(segment[-1].end - segment[0].start for segment in segments) > LONGEST_S - 2


def test_chinese_ends_sentences_too_and_nothing_has_no_segments() -> None:
    assert texts(words(("你好。", 0, 2.1), ("再见。", 2.2, 3))) == ["你好。", "再见。"]
    assert texts([]) == []
