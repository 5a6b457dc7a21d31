"""Sentences of several languages, and what is no end of one."""

import time

import pytest

from deployments.sentences import LONGEST, SHORTEST, WIDE, speakable, split_sentences

SPLIT = {
    "English": (
        "Dr. Smith paid $3.50 to Mr. Jones. He left at 5 p.m. on Monday. Was it J. R. R. Tolkien? Certainly not!",
        [
            "Dr. Smith paid $3.50 to Mr. Jones.",
            "He left at 5 p.m. on Monday.",
            "Was it J. R. R. Tolkien?",
            "Certainly not!",
        ],
    ),
    "quotes": (
        "“I never said so.” She was angry. (Nobody knew why.) \"Stop!\" he cried at last.",
        ["“I never said so.”", "She was angry.", "(Nobody knew why.)", "\"Stop!\" he cried at last."],
    ),
    "an ellipsis in the middle": (
        "It was… well, good. And it went on ... and so on. The end of it.",
        ["It was… well, good.", "And it went on ... and so on.", "The end of it."],
    ),
    "numbers, versions, addresses": (
        "See www.example.com/a.html for v1.2.3 today. It grew by 3.14 percent in 1999. Then it fell.",
        ["See www.example.com/a.html for v1.2.3 today.", "It grew by 3.14 percent in 1999.", "Then it fell."],
    ),
    "German": (
        "Am 3. Oktober ist Feiertag. Das gilt z.B. nicht in der Schweiz. Warum auch nicht?",
        ["Am 3. Oktober ist Feiertag.", "Das gilt z.B. nicht in der Schweiz.", "Warum auch nicht?"],
    ),
    "Japanese": (
        "今日は良い天気です。明日は雨でしょう！本当ですか？",
        ["今日は良い天気です。", "明日は雨でしょう！", "本当ですか？"],
    ),
    "Hindi": ("यह एक वाक्य है। यह दूसरा वाक्य है।", ["यह एक वाक्य है।", "यह दूसरा वाक्य है।"]),
    "Arabic": ("هل أنت بخير اليوم؟ نعم أنا بخير.", ["هل أنت بخير اليوم؟", "نعم أنا بخير."]),
    "a list": (
        "1. The first item\n2. The second item\n- And another",
        ["1. The first item.", "2. The second item.", "- And another"],
    ),
    "a heading": ("The long heading\n\nBody of the\nwrapped text.", ["The long heading.", "Body of the wrapped text."]),
}  # fmt: skip


@pytest.mark.parametrize("case", SPLIT)
def test_sentences(case: str) -> None:
    text, expected = SPLIT[case]
    assert split_sentences(text) == expected


@pytest.mark.parametrize("text", ["", "  \n ", "...", "***", "?!", "—", "\0", "\ud800"])
def test_nothing_to_say(text: str) -> None:
    assert split_sentences(text) == []
    assert not speakable(text)


def test_what_is_no_word_between_words_is_left_out() -> None:
    assert split_sentences("The first one.\n\n* * *\n\nThe second one.") == ["The first one.", "The second one."]


def test_what_c_cant_read_is_left_out() -> None:
    assert split_sentences("one\0two \ud83d three\x07.") == ["one two three ."]


def test_short_sentences_are_spoken_with_the_next_one() -> None:
    assert split_sentences("Hi. No. That is it, then. So it ends. Ok.") == [
        "Hi. No. That is it, then.",
        "So it ends. Ok.",
    ]
    assert split_sentences("Hi.") == ["Hi."]
    assert all(len(piece) >= SHORTEST for piece in split_sentences("A b. " * 100))


@pytest.mark.parametrize(
    ("text", "joint"),
    [
        ("word, " * 200, " "),
        ("word " * 300, " "),
        ("a" * 1000, ""),
        ("說" * 500, ""),
        ("Mr. Who and Dr. No " * 50, " "),
    ],
)
def test_long_sentences_are_cut_and_nothing_is_lost(text: str, joint: str) -> None:
    pieces = split_sentences(text)
    assert len(pieces) > 1
    assert joint.join(pieces) == text.strip()
    assert all(len(piece) * (WIDE if piece[0] == "說" else 1) <= LONGEST for piece in pieces)
    assert all(len(piece) * (WIDE if piece[0] == "說" else 1) > LONGEST / 2 for piece in pieces[:-1])


def test_a_long_sentence_is_cut_after_a_clause_where_there_is_one() -> None:
    clause = "when the sun had gone down over the hills, "
    assert all(piece.endswith("hills,") for piece in split_sentences(clause * 20))


def test_a_character_is_not_parted_from_its_accents() -> None:
    pieces = split_sentences("e\u0301" * 400)
    assert "".join(pieces) == "e\u0301" * 400
    assert all(piece[0] == "e" for piece in pieces)


@pytest.mark.parametrize(
    "unit", [".", "a", "a. ", "\n", "\n \t", "!)", ". ", "Mr. ", "x\n - ", "word, ", "\n ", "a.b", "「。"]
)
def test_the_time_it_takes_grows_with_the_text_alone(unit: str) -> None:
    """50 times the text in far less than 50 × 50 times the time."""

    def seconds(count: int) -> float:
        begun = time.process_time()
        split_sentences(unit * count + "x")
        return time.process_time() - begun

    assert seconds(50_000) < 50 * 10 * max(seconds(1_000), 0.001)
