"""The transformers engine on SmolLM2-135M as safetensors, and on tiny random models of other kinds, one thread."""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jsonschema
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("llguidance")

from deployments.backends.base import Generate, Media, Sampling  # noqa: E402
from deployments.backends.transformers_batching import DecodeFailed  # noqa: E402
from deployments.backends.transformers_text import TransformersText  # noqa: E402
from deployments.config import ModelConfig  # noqa: E402
from deployments.config_blocks import Parameters  # noqa: E402
from deployments.errors import (  # noqa: E402
    ConfigInvalid,
    ContextLengthExceeded,
    EngineError,
    InvalidRequest,
    ModelLoadFailed,
    UnsupportedParameter,
)
from tests.models import generation  # noqa: E402
from tests.models.generation import GREEDY, collect, text_of  # noqa: E402
from tests.unit.waiting import until  # noqa: E402

CONTEXT = 512
WARM = Sampling(temperature=0.9, seed=7)
QUESTIONS = ("What is the capital of France?", "Tell me a long story about a dog and a cat.", "Hi", "Count to ten!")


def load(directory: Path, **fields: Any) -> TransformersText:
    fields = {"context_size": CONTEXT, "threads": 1, "num_gpus": 0, **fields}
    config = ModelConfig(name="m", backend="transformers", parameters=Parameters(model=directory.name), **fields)
    return TransformersText.load(config, directory.parent, lambda fraction: None)


@pytest.fixture(scope="module")
def engine(smollm2_safetensors_path: Path) -> Iterator[TransformersText]:
    engine = load(smollm2_safetensors_path)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def library(smollm2_safetensors_path: Path) -> Any:
    """The same weights by the library alone."""
    return transformers.AutoModelForCausalLM.from_pretrained(smollm2_safetensors_path, dtype=torch.float32).eval()


ask = partial(generation.ask, max_tokens=12)


async def ids_of(engine: TransformersText, request: Generate, delay: float = 0) -> list[int]:
    tokens, _ = await collect(engine, request, delay)
    return [token.id for token in tokens]


def generated(model: Any, count: int, ends: Sequence[int] = (2,), **inputs: Any) -> list[int]:
    """What the library's own greedy `generate` says, without the end token."""
    output = model.generate(**inputs, max_new_tokens=count, do_sample=False, eos_token_id=list(ends), pad_token_id=0)
    ids: list[int] = output[0][inputs["input_ids"].shape[1] :].tolist()
    return [token for token in ids if token not in ends]


# ---- what comes out --------------------------------------------------------------------------------------------------


async def test_it_answers(engine: TransformersText) -> None:
    tokens, finish_reason = await collect(engine, ask(engine, QUESTIONS[0]))
    assert b"".join(token.text for token in tokens) == b"The capital of France is Paris."
    assert finish_reason == "stop"
    assert engine.chat_template
    assert "<|im_start|>" in engine.chat_template
    assert engine.special_tokens == {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    assert engine.media_markers == {}


async def test_who_joins_a_batch_gets_what_generate_says(engine: TransformersText, library: Any) -> None:
    requests = [ask(engine, question) for question in (*QUESTIONS, QUESTIONS[1] * 4)]
    answers = await asyncio.gather(*(ids_of(engine, one, 0.1 * i) for i, one in enumerate(requests)))
    for request, answer in zip(requests, answers, strict=True):
        assert answer == generated(library, 12, input_ids=torch.tensor([request.tokens]))


async def test_a_seed_gives_one_answer_whoever_is_beside(engine: TransformersText) -> None:
    request = ask(engine, QUESTIONS[1], sampling=WARM)
    alone = await ids_of(engine, request)
    others = [ask(engine, question, sampling=Sampling(temperature=2.0)) for question in QUESTIONS]
    beside, *_ = await asyncio.gather(ids_of(engine, request, 0.2), *(ids_of(engine, other) for other in others))
    assert beside == alone
    assert alone != await ids_of(engine, ask(engine, QUESTIONS[1], sampling=Sampling(temperature=0.9, seed=8)))


async def test_resumed_it_goes_on_as_if_nothing_had_happened(engine: TransformersText) -> None:
    request = ask(engine, QUESTIONS[1], sampling=Sampling(temperature=0.9, seed=7, repeat_penalty=1.3))
    whole = await ids_of(engine, request)
    request.resume = whole[:6]
    assert await ids_of(engine, request) == whole[6:]


async def test_logprobs_are_the_models_own(engine: TransformersText, library: Any) -> None:
    request = ask(engine, QUESTIONS[0], top_logprobs=3, max_tokens=3, sampling=WARM)
    tokens, _ = await collect(engine, request)
    ids = torch.tensor([[*request.tokens, *(token.id for token in tokens)]])
    scores = library(ids).logits[0].log_softmax(-1)
    for place, token in enumerate(tokens, len(request.tokens) - 1):
        assert token.logprob is not None
        assert token.logprob.logprob == pytest.approx(scores[place, token.id].item(), abs=1e-3)
        best = scores[place].topk(3)
        assert [one.id for one in token.logprob.top] == best.indices.tolist()
        assert [one.logprob for one in token.logprob.top] == pytest.approx(best.values.tolist(), abs=1e-3)


async def test_logit_bias(engine: TransformersText) -> None:
    [word] = engine.tokenize(" Paris", add_bos=False, special=False)
    assert word not in await ids_of(engine, ask(engine, QUESTIONS[0], sampling=Sampling(0, logit_bias={word: -100})))
    assert (
        await ids_of(engine, ask(engine, "Hi", max_tokens=3, sampling=Sampling(0, logit_bias={word: 100})))
        == [word] * 3
    )


async def test_penalties_make_repetition_rarer(engine: TransformersText) -> None:
    request = ask(engine, "Write the word dog again and again: dog dog dog dog dog dog", max_tokens=20)
    plain = await ids_of(engine, request)
    request.sampling = Sampling(0, repeat_penalty=1.5, frequency_penalty=1, presence_penalty=1, repeat_last_n=-1)
    penalised = await ids_of(engine, request)
    assert len(set(penalised)) / len(penalised) > len(set(plain)) / len(plain)


async def test_ignore_eos(engine: TransformersText) -> None:
    tokens, finish_reason = await collect(engine, ask(engine, QUESTIONS[0], sampling=Sampling(0, ignore_eos=True)))
    assert (len(tokens), finish_reason) == (12, "length")


# ---- constraints -----------------------------------------------------------------------------------------------------

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 12},
        "size": {"enum": ["small", "large"]},
        "rank": {"type": "integer", "minimum": 1, "maximum": 9},
    },
    "required": ["city", "size", "rank"],
    "additionalProperties": False,
}


async def test_json_schemas_side_by_side(engine: TransformersText) -> None:
    samplings = [GREEDY, WARM, Sampling(temperature=1.5, top_k=0, top_p=1.0, seed=3)]
    requests = [ask(engine, "Name a city.", json_schema=SCHEMA, sampling=one, max_tokens=200) for one in samplings]
    free, *answers = await asyncio.gather(
        text_of(engine, ask(engine, QUESTIONS[0])), *(text_of(engine, request) for request in requests)
    )
    assert free == "The capital of France is Paris."
    for answer in answers:
        jsonschema.validate(json.loads(answer), SCHEMA)


async def test_gbnf_and_lark(engine: TransformersText) -> None:
    assert await text_of(engine, ask(engine, "Yes or no?", grammar='root ::= "maybe" | "perhaps"')) in (
        "maybe",
        "perhaps",
    )
    answer = await text_of(engine, ask(engine, "Say a number.", lark="start: /[0-9]{3}/"))
    assert answer.isdigit()
    assert len(answer) == 3


async def test_a_constraint_is_resumed(engine: TransformersText) -> None:
    request = ask(engine, "Name a city.", json_schema=SCHEMA, max_tokens=200)
    whole = await ids_of(engine, request)
    request.resume = whole[:5]
    assert await ids_of(engine, request) == whole[5:]
    request.resume = engine.tokenize("not JSON", add_bos=False, special=False)
    with pytest.raises(InvalidRequest, match="resume"):
        await ids_of(engine, request)


# ---- limits and failures ---------------------------------------------------------------------------------------------


async def test_a_full_context_ends_the_answer(smollm2_safetensors_path: Path) -> None:
    engine = load(smollm2_safetensors_path, context_size=32)
    try:
        request = ask(engine, "Hi", max_tokens=None, sampling=Sampling(0, ignore_eos=True))
        tokens, finish_reason = await collect(engine, request)
        assert (len(request.tokens) + len(tokens), finish_reason) == (32, "length")
        with pytest.raises(ContextLengthExceeded, match="32"):
            await collect(engine, Generate([5] * 32, GREEDY))
    finally:
        engine.close()


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"tokens": []}, InvalidRequest, "prompt"),
        ({"tokens": [10**6]}, InvalidRequest, "prompt"),
        ({"resume": [-1]}, InvalidRequest, "resume"),
        ({"sampling": Sampling(logit_bias={10**6: 1.0})}, InvalidRequest, "logit_bias"),
        ({"sampling": Sampling(mirostat=2)}, UnsupportedParameter, "mirostat"),
        ({"grammar": "root ::= ("}, InvalidRequest, "grammar"),
        ({"media": [Media("image", b"")]}, UnsupportedParameter, "messages"),
    ],
)
async def test_what_is_refused(
    engine: TransformersText, fields: dict[str, Any], error: type[InvalidRequest], param: str
) -> None:
    with pytest.raises(error) as caught:
        await collect(engine, Generate(**{"tokens": [5], "sampling": GREEDY, **fields}))
    assert caught.value.param == param


async def test_who_leaves_frees_the_slot(engine: TransformersText) -> None:
    request = ask(engine, QUESTIONS[1], max_tokens=None, sampling=Sampling(0, ignore_eos=True))
    stream = engine.generate(request)
    await anext(stream)
    assert engine.stats()["slots_busy"] == 1
    await stream.aclose()
    await until(lambda: engine.stats()["slots_busy"] == 0)
    assert engine.stats()["kv_cells_used"] == 0


async def test_a_crowd_with_few_cells_is_served(smollm2_safetensors_path: Path, library: Any) -> None:
    engine = load(smollm2_safetensors_path, context_size=100, kv_cells=150, parallel=4)
    try:
        requests = [ask(engine, question) for question in QUESTIONS]
        answers = await asyncio.gather(*(ids_of(engine, request) for request in requests))
        for request, answer in zip(requests, answers, strict=True):
            assert answer == generated(library, 12, input_ids=torch.tensor([request.tokens]))
    finally:
        engine.close()


async def test_closing_answers_everybody(smollm2_safetensors_path: Path) -> None:
    engine = load(smollm2_safetensors_path)
    request = ask(engine, QUESTIONS[1], max_tokens=None, sampling=Sampling(0, ignore_eos=True))
    stream = engine.generate(request)
    await anext(stream)
    await asyncio.to_thread(engine.close)
    with pytest.raises(EngineError):
        async for _ in stream:
            pass
    with pytest.raises(EngineError):
        await collect(engine, request)
    engine.close()


def test_text_and_tokens(engine: TransformersText) -> None:
    text = "Hello world 123  émoji 😀\n<|im_end|>"
    ids = engine.tokenize(text, add_bos=False, special=True)
    assert ids[-1] == 2
    assert engine.detokenize(ids) == text.removesuffix("<|im_end|>").encode()  # a control token has no text
    plain = engine.tokenize(text, add_bos=False, special=False)
    assert 2 not in plain
    assert engine.detokenize(plain) == text.encode()
    with pytest.raises(InvalidRequest):
        engine.detokenize([10**6])


def test_configs_that_are_wrong(smollm2_safetensors_path: Path) -> None:
    for fields, word in (
        ({"kv_cells": 10}, "kv_cells"),
        ({"type": "OVModelForCausalLM"}, "type"),
        ({"quantization": "awq4"}, "quantization"),
        ({"lora_adapter": "a"}, "lora_adapter"),
        ({"options": ["no_such:1"]}, "no_such"),
        ({"dtype": "int3"}, "dtype"),
    ):
        with pytest.raises(ConfigInvalid, match=word):
            load(smollm2_safetensors_path, **fields)


def test_pickled_weights_need_a_word(tmp_path: Path, smollm2_safetensors_path: Path) -> None:
    directory = make(tmp_path / "gpt2", smollm2_safetensors_path, "gpt2", n_embd=32, n_layer=2, n_head=4, **SIZES)
    (directory / "model.safetensors").unlink()
    weights = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.from_pretrained(directory))
    torch.save(weights.state_dict(), directory / "pytorch_model.bin")
    with pytest.raises(ModelLoadFailed, match="pickled"):
        load(directory)
    load(directory, options=["allow_pickles:true"]).close()


# ---- other kinds of models -------------------------------------------------------------------------------------------

SIZES = {
    "vocab_size": 49152, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.5, "max_position_embeddings": 512, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
KINDS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sliding window": ("mistral", {**SIZES, "sliding_window": 8}),
    "two kinds of attention": ("gemma2", {**SIZES, "sliding_window": 8, "head_dim": 8}),
    "keys and values of different width": (
        "deepseek_v3",
        {
            **SIZES, "num_key_value_heads": 4, "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8, "v_head_dim": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
            "topk_group": 1, "moe_intermediate_size": 16,
        },
    ),
    "no positions": ("bloom", {**SIZES, "n_layer": 2, "n_head": 4}),
    "learned positions": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, **SIZES}),
    "short convolutions": ("lfm2", {**SIZES, "layer_types": ["conv", "full_attention"] * 2}),
    "attention and state in one layer": (
        "falcon_h1",
        {**SIZES, "mamba_d_ssm": 64, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 16},
    ),
    "state outside of the cache": (
        "recurrent_gemma",
        {**SIZES, "lru_width": 32, "attention_window_size": 8, "block_types": ["recurrent", "attention"]},
    ),
    "no attention": ("mamba", {**SIZES, "num_hidden_layers": 2}),
}  # fmt: skip
ONE_BY_ONE = {"attention and state in one layer", "state outside of the cache"}


def make(directory: Path, tokenizer: Path, model_type: str, **sizes: Any) -> Path:
    """A model of random weights with another one's tokenizer."""
    torch.manual_seed(1)
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(directory)
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)
    return directory


@pytest.mark.parametrize("kind", KINDS)
async def test_a_kind_of_model_says_what_generate_says(
    tmp_path: Path, smollm2_safetensors_path: Path, kind: str
) -> None:
    model_type, sizes = KINDS[kind]
    directory = make(tmp_path / model_type, smollm2_safetensors_path, model_type, **sizes)
    library = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    engine = load(directory)
    try:
        texts = (
            "Hi there",
            "Once upon a time there was a little girl who liked to run",
            "The one two three",
            "a b c d",
        )
        requests = [Generate(engine.tokenize(text, add_bos=True, special=True), GREEDY, 20) for text in texts]
        answers = await asyncio.gather(*(ids_of(engine, one, 0.02 * i) for i, one in enumerate(requests)))
        assert engine.stats()["slots"] == (1 if kind in ONE_BY_ONE else 32)
    finally:
        engine.close()
    for request, answer in zip(requests, answers, strict=True):
        assert answer == generated(library, 20, input_ids=torch.tensor([request.tokens]))


def test_what_keeps_its_state_in_a_way_of_its_own_is_refused(tmp_path: Path, smollm2_safetensors_path: Path) -> None:
    directory = make(tmp_path / "rwkv", smollm2_safetensors_path, "rwkv", vocab_size=49152, hidden_size=32,
                     num_hidden_layers=2)  # fmt: skip
    with pytest.raises(ModelLoadFailed, match="Rwkv"):
        load(directory)


def test_a_model_that_fails_its_first_step_is_not_served(
    tmp_path: Path, smollm2_safetensors_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make(tmp_path / "gpt2", smollm2_safetensors_path, "gpt2", n_embd=32, n_layer=2, n_head=4, **SIZES)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise DecodeFailed("no kernel")

    monkeypatch.setattr("deployments.backends.transformers_decoder.TransformersDecoder.prefill", fail)
    with pytest.raises(ModelLoadFailed, match="no kernel"):
        load(directory)
