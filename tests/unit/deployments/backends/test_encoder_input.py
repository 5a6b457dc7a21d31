"""How inputs of encoders are put together and cut."""

import pytest

from deployments.backends.base import Tokens
from deployments.backends.encoder_input import InputTemplate, check_ids
from deployments.errors import ContextLengthExceeded, InvalidRequest

CLS, SEP = 101, 102
BERT = InputTemplate((CLS,), (SEP,), (SEP,))
TEN = list(range(10))


def test_special_tokens_stand_around_each_text() -> None:
    assert BERT.singles([[1, 2], []], 8, truncate=False) == [Tokens([CLS, 1, 2, SEP]), Tokens([CLS, SEP])]


def test_a_text_that_just_fits_is_whole() -> None:
    assert BERT.singles([TEN], 12, truncate=False) == [Tokens([CLS, *TEN, SEP])]


def test_what_is_cut_keeps_its_special_tokens_and_its_full_length() -> None:
    assert BERT.singles([TEN], 6, truncate=True) == [Tokens([CLS, 0, 1, 2, 3, SEP], full_length=12)]


def test_some_models_read_the_end() -> None:
    template = InputTemplate((CLS,), (SEP,), (SEP,), keep_end=True)
    assert template.singles([TEN], 6, truncate=True) == [Tokens([CLS, 6, 7, 8, 9, SEP], full_length=12)]
    assert template.pairs([1], [TEN], 6, truncate=True) == [Tokens([CLS, 1, SEP, 8, 9, SEP], second=3, full_length=14)]


def test_too_long_is_refused_with_both_numbers_and_the_index() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has 12 tokens.* at most 6"):
        BERT.singles([[1], TEN], 6, truncate=False)
    with pytest.raises(ContextLengthExceeded, match=r"documents\[0\] with the query has 14 tokens.* at most 6"):
        BERT.pairs([1], [TEN], 6, truncate=False)


def test_an_input_without_any_token_is_refused() -> None:
    with pytest.raises(InvalidRequest, match=r"input\[1\] has no tokens") as caught:
        InputTemplate((), ()).singles([[1], []], 6, truncate=True)
    assert caught.value.param == "input"


def test_a_pair_knows_where_its_second_text_begins() -> None:
    assert BERT.pairs([1, 2], [[3], []], 8, truncate=False) == [
        Tokens([CLS, 1, 2, SEP, 3, SEP], second=4),
        Tokens([CLS, 1, 2, SEP, SEP], second=4),
    ]


def test_of_a_pair_the_document_is_cut() -> None:
    (cut,) = BERT.pairs([1, 2], [TEN], 8, truncate=True)
    assert cut == Tokens([CLS, 1, 2, SEP, 0, 1, 2, SEP], second=4, full_length=15)


def test_a_query_that_leaves_no_room_gets_half() -> None:
    (cut,) = BERT.pairs(TEN, [[11, 12, 13, 14]], 9, truncate=True)
    assert cut == Tokens([CLS, 0, 1, 2, SEP, 11, 12, 13, SEP], second=5, full_length=17)


@pytest.mark.parametrize("wrong", [-1, 10, 10**12])
def test_ids_that_are_none_are_named(wrong: int) -> None:
    check_ids(TEN, 10, index=0)
    with pytest.raises(InvalidRequest, match=rf"input\[3\]: {wrong} is no token.* 0 to 9") as caught:
        check_ids([1, wrong], 10, index=3)
    assert caught.value.param == "input"
