"""TextDecoder and Finetune."""

import re

import pytest

from deployments.backends.base import Token, TokenLogprob
from deployments.text.decoding import Finetune, TextDecoder


def pieces(*texts: bytes | str) -> list[Token]:
    return [
        Token(i, raw := t.encode() if isinstance(t, str) else t, TokenLogprob(i, raw, -float(i)))
        for i, t in enumerate(texts)
    ]


def test_a_character_that_spans_tokens_comes_whole() -> None:
    decoder = TextDecoder()
    assert [decoder.push(t) for t in pieces(b"a\xf0\x9f", b"\x90", b"\xb3b")] == ["a", "", "🐳b"]
    assert decoder.flush() == ""


def test_a_broken_character_at_the_end_becomes_the_replacement_character() -> None:
    decoder = TextDecoder()
    assert decoder.push(Token(0, b"x\xf0\x9f")) == "x"
    assert decoder.flush() == "�"


@pytest.mark.parametrize("texts", [["one END", " two"], ["one E", "N", "D two"], ["one", " ", "E", "N", "D"]])
def test_a_stop_string_is_found_however_the_tokens_cut_it(texts: list[str]) -> None:
    decoder = TextDecoder(["END", "never"])
    text = ""
    for token in pieces(*texts):
        text += decoder.push(token)
        if decoder.stopped:
            break
    assert (text, decoder.stopped) == ("one ", True)


def test_the_start_of_a_stop_string_is_held_back_and_released_when_it_was_none() -> None:
    decoder = TextDecoder(["<|end|>"])
    assert [decoder.push(t) for t in pieces("a <", "|en", "try|>")] == ["a ", "", "<|entry|>"]
    assert decoder.push(Token(9, b"x<|e")) == "x"
    assert decoder.flush() == "<|e"


def test_the_earliest_of_several_stop_strings_wins() -> None:
    decoder = TextDecoder(["later", "soon"])
    assert decoder.push(Token(0, b"a soon later")) == "a "


def test_logprobs_come_with_the_text_of_their_tokens_and_not_for_the_stop_string() -> None:
    decoder = TextDecoder(["STOP"])
    seen = []
    for token in pieces("one", " S", "OUP", " ST", "OP"):
        decoder.push(token)
        seen.append([entry.id for entry in decoder.logprobs()])
    assert decoder.stopped
    assert seen == [[0], [], [1, 2], [], []]


def test_finetune_cuts_extracts_and_trims_as_localai_does() -> None:
    finetune = Finetune(
        cutstrings=[re.compile(r"\[.*?\]")],
        extract_regex=[re.compile(r"answer: .*")],
        trimspace=["answer:"],
        trimsuffix=["</s>"],
    )
    assert finetune("noise [cut]\nanswer:  42 [x]</s> ") == "42"
    assert not Finetune()
