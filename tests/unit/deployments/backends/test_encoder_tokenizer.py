"""The fast tokenizer around a small vocabulary."""

import pytest

tokenizers = pytest.importorskip("tokenizers")

from tokenizers.models import BPE, WordLevel  # noqa: E402
from tokenizers.pre_tokenizers import Whitespace  # noqa: E402
from tokenizers.processors import TemplateProcessing  # noqa: E402

from deployments.backends.base import Tokens  # noqa: E402
from deployments.backends.encoder_tokenizer import EncoderTokenizer  # noqa: E402
from deployments.errors import ConfigInvalid, ContextLengthExceeded, InvalidRequest, ModelLoadFailed  # noqa: E402

WORDS = ["[UNK]", "[CLS]", "[SEP]", "a", "cat", "sat", "query", ":"]
UNK, CLS, SEP, A, CAT, SAT, QUERY, COLON = range(8)


def words(single: str = "[CLS] $A [SEP]", pair: str = "[CLS] $A [SEP] $B:1 [SEP]:1") -> "tokenizers.Tokenizer":
    tokenizer = tokenizers.Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    special = [("[CLS]", CLS), ("[SEP]", SEP)]
    tokenizer.post_processor = TemplateProcessing(single=single, pair=pair, special_tokens=special)
    return tokenizer


def test_texts_and_ids_in_one_request() -> None:
    tokens = EncoderTokenizer(words(), 8).tokenize(["a cat", [SAT], "sat dog"], truncate=False)
    assert tokens == [Tokens([CLS, A, CAT, SEP]), Tokens([CLS, SAT, SEP]), Tokens([CLS, SAT, UNK, SEP])]


def test_pairs_and_their_token_types() -> None:
    tokenizer = EncoderTokenizer(words(), 8)
    assert tokenizer.tokenize_pairs("a cat", ["sat"], truncate=False) == [
        Tokens([CLS, A, CAT, SEP, SAT, SEP], second=4)
    ]
    assert tokenizer.second_type == 1


def test_other_models_want_other_special_tokens() -> None:
    tokenizer = EncoderTokenizer(words("$A [SEP]", "[CLS] $A [SEP] [SEP] $B"), 8)
    assert tokenizer.tokenize(["cat"], truncate=False) == [Tokens([CAT, SEP])]
    assert tokenizer.tokenize_pairs("cat", ["sat"], truncate=False) == [Tokens([CLS, CAT, SEP, SEP, SAT], second=4)]
    assert tokenizer.second_type == 0


def test_a_prompt_goes_before_texts_ids_and_queries() -> None:
    tokenizer = EncoderTokenizer(words(), 8, prompt="query: ")
    both = tokenizer.tokenize(["cat", [CAT]], truncate=False)
    assert both == [Tokens([CLS, QUERY, COLON, CAT, SEP])] * 2
    assert tokenizer.prompt_length == 3
    (pair,) = tokenizer.tokenize_pairs("cat", ["sat"], truncate=False)
    assert pair.ids == [CLS, QUERY, COLON, CAT, SEP, SAT, SEP]
    assert EncoderTokenizer(words(), 8).prompt_length == 0


def test_truncation_set_in_the_tokenizers_file_does_not_hide_the_full_length() -> None:
    own = words()
    own.enable_truncation(4)
    own.enable_padding(length=8)
    assert EncoderTokenizer(own, 6).tokenize(["a cat sat a cat"], truncate=True)[0].full_length == 7
    assert own.truncation is not None


def test_too_long_and_wrong_ids_name_the_input() -> None:
    tokenizer = EncoderTokenizer(words(), 5)
    with pytest.raises(ContextLengthExceeded, match=r"input\[1\] has 6 tokens"):
        tokenizer.tokenize(["a", "a a a a"], truncate=False)
    with pytest.raises(InvalidRequest, match=r"input\[1\]: 8 is no token"):
        tokenizer.tokenize(["a", [8]], truncate=True)


def test_half_a_surrogate_pair_is_text_too() -> None:
    assert EncoderTokenizer(words(), 8).tokenize(["cat \ud83d"], truncate=False) == [Tokens([CLS, CAT, UNK, SEP])]


def test_a_context_of_special_tokens_alone_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="a context of 4 tokens"):
        EncoderTokenizer(words(), 4)


def test_a_vocabulary_that_knows_no_text_is_refused() -> None:
    empty = tokenizers.Tokenizer(BPE())
    with pytest.raises(ModelLoadFailed, match="no token"):
        EncoderTokenizer(empty, 8)
