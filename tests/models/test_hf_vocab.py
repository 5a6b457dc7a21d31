"""Hugging Face's tokenizer and llama.cpp's vocabulary of the same model agree on every token."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from deployments.backends.hf_vocab import HfVocab
from deployments.backends.llama_params import model_params
from deployments.backends.llama_vocab import LlamaModel, LlamaVocab
from deployments.backends.request_checks import check_ids
from deployments.config import ModelConfig
from deployments.errors import InvalidRequest


@pytest.fixture(scope="module")
def llama(smollm2_path: Path) -> LlamaVocab:
    return LlamaVocab(LlamaModel(smollm2_path, model_params(ModelConfig(name="m")), lambda fraction: None))


@pytest.fixture(scope="module")
def vocab(smollm2_safetensors_path: Path, llama: LlamaVocab) -> HfVocab:
    return HfVocab(AutoTokenizer.from_pretrained(smollm2_safetensors_path), llama.size)


def test_every_token_has_the_same_bytes_and_name(vocab: HfVocab, llama: LlamaVocab) -> None:
    for token in range(llama.size):
        assert vocab.piece(token) == llama.piece(token)
        assert vocab.name(token) == llama.name(token)
    assert vocab.special_tokens() == llama.special_tokens()


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", ["<|im_start|>user\nHello émoji 😀<|im_end|>", " x", "", "half a pair: \ud83d"])
def test_text_becomes_the_same_tokens_and_comes_back(
    vocab: HfVocab, llama: LlamaVocab, text: str, special: bool
) -> None:
    ids = vocab.tokenize(text, add_bos=True, special=special)
    assert ids == llama.tokenize(text, add_bos=True, special=special)
    if not special:
        assert vocab.detokenize(ids).decode() == text.encode(errors="replace").decode()


def test_an_id_that_is_no_token_is_refused_at_its_field(vocab: HfVocab) -> None:
    with pytest.raises(InvalidRequest, match=f"{vocab.size} is no token") as refusal:
        check_ids([1, vocab.size], vocab.size, "logit_bias")
    assert refusal.value.param == "logit_bias"
