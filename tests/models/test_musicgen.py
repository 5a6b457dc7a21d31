"""The transformers-musicgen engine on a tiny MusicGen with random weights, against the library's own call."""

import asyncio
import io
import shutil
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokenizers import Tokenizer, models, pre_tokenizers, processors  # noqa: E402
from transformers import (  # noqa: E402
    AutoTokenizer,
    EncodecConfig,
    GenerationConfig,
    MusicgenConfig,
    MusicgenDecoderConfig,
    MusicgenForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
)

from deployments.backends.base import SoundRequest  # noqa: E402
from deployments.backends.musicgen import MusicGen  # noqa: E402
from deployments.config import ModelConfig  # noqa: E402
from deployments.config_blocks import Parameters  # noqa: E402
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest, ModelLoadFailed  # noqa: E402
from deployments.sound import SoundModel  # noqa: E402

RATE, FRAME_RATE = 16_000, 50
CODES = 64
"""Entries of a codebook; one more id stands for padding."""
WORDS = ("<pad>", "</s>", "<unk>", "rain", "on", "a", "tin", "roof", "drums")


def make(directory: Path, channels: int = 1) -> Path:
    """A MusicGen of 0.2 million random weights, in the layout of the published ones."""
    torch.manual_seed(0)
    encodec = EncodecConfig(
        sampling_rate=RATE, target_bandwidths=[2.4], num_filters=4, hidden_size=16, codebook_size=CODES,
        codebook_dim=16, upsampling_ratios=[8, 5, 4, 2], num_lstm_layers=1,
    )  # fmt: skip
    text = T5Config(vocab_size=len(WORDS), d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2)
    decoder = MusicgenDecoderConfig(
        vocab_size=CODES, num_hidden_layers=1, ffn_dim=32, num_attention_heads=2, hidden_size=16,
        num_codebooks=4 * channels, audio_channels=channels, pad_token_id=CODES, bos_token_id=CODES,
        initializer_factor=0.3,  # at the usual one a text makes no difference
    )  # fmt: skip
    model = MusicgenForConditionalGeneration(
        MusicgenConfig(text_encoder=text.to_dict(), audio_encoder=encodec.to_dict(), decoder=decoder.to_dict())
    )
    for layer in model.audio_encoder.quantizer.layers:
        layer.codebook.embed.normal_()  # made of zeros: every code would sound the same
    model.generation_config = GenerationConfig(
        do_sample=True, guidance_scale=3.0, max_length=1500,
        bos_token_id=CODES, pad_token_id=CODES, decoder_start_token_id=CODES,
    )  # fmt: skip
    model.save_pretrained(directory)
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("models") / "musicgen-tiny")


def load(directory: Path) -> MusicGen:
    config = ModelConfig(name="musicgen", parameters=Parameters(model=directory.name), threads=1)
    return MusicGen.load(config, directory.parent, lambda _: None)


@pytest.fixture(scope="module")
def engine(directory: Path) -> MusicGen:
    return load(directory)


def compose(engine: MusicGen, text: str = "rain on a tin roof", **fields: Any) -> np.ndarray:
    asked: dict[str, Any] = {
        "seconds": 0.5, "guidance": None, "do_sample": None, "seed": None, "stopped": lambda: False, **fields,
    }  # fmt: skip
    return engine.compose(text, **asked)


@pytest.fixture(scope="module")
def library(directory: Path) -> Callable[..., np.ndarray]:
    """The call of transformers' own documentation."""
    model = MusicgenForConditionalGeneration.from_pretrained(directory, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)

    def generate(text: str, tokens: int, seed: int, **fields: Any) -> np.ndarray:
        torch.manual_seed(seed)
        inputs = tokenizer([text], padding=True, return_tensors="pt")
        audio: np.ndarray = model.generate(**inputs, max_new_tokens=tokens, **fields)[0].numpy()
        return audio

    return generate


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"guidance": 1.0}, {"guidance_scale": 1.0}),
        ({"guidance": 7.5}, {"guidance_scale": 7.5}),
        ({"do_sample": False}, {"do_sample": False}),
    ],
)
def test_the_samples_are_those_of_the_librarys_own_call(
    engine: MusicGen, library: Callable[..., np.ndarray], ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    expected = library("rain on a tin roof", 25 + 3, seed=7, **theirs)
    assert expected.shape == (1, RATE // 2)
    assert np.array_equal(compose(engine, seed=7, **ours), expected)


def test_what_is_asked_for_is_heard(engine: MusicGen) -> None:
    usual = compose(engine, seed=7)
    assert usual.std() > 0
    for other in ({"seed": 8}, {"guidance": 1.0}, {"do_sample": False}):
        assert not np.array_equal(usual, compose(engine, **{"seed": 7, **other}))
    assert not np.array_equal(usual, compose(engine, "drums", seed=7))


def test_a_seed_gives_the_same_again_and_no_seed_something_else(engine: MusicGen) -> None:
    first = compose(engine, seed=7)
    after = compose(engine)
    assert np.array_equal(compose(engine, seed=7), first)
    assert not np.array_equal(compose(engine), after), "without a seed nothing goes on from another request's"
    assert np.array_equal(compose(engine, seed=-1), compose(engine, seed=2**64 - 1))


@pytest.mark.parametrize("seconds", [0.02, 0.51, 1.0, 1.234])
def test_the_duration_is_the_one_asked_for(engine: MusicGen, seconds: float) -> None:
    samples = compose(engine, seconds=seconds)
    assert samples.shape == (1, round(seconds * RATE))
    assert samples.dtype == np.float32


def test_its_files_say_how_long_it_can_be(engine: MusicGen) -> None:
    assert (engine.max_seconds, engine.sample_rate) == (1500 / FRAME_RATE, RATE)


def test_a_stereo_model_gives_two_channels(tmp_path: Path) -> None:
    samples = compose(load(make(tmp_path / "stereo", channels=2)), seconds=0.3)
    assert samples.shape == (2, round(0.3 * RATE))
    assert not np.array_equal(samples[0], samples[1])


async def test_a_request_is_answered_with_a_wav(engine: MusicGen) -> None:
    model = SoundModel(engine, ModelConfig(name="musicgen"), Path())
    request = SoundRequest(text="rain", seconds=0.4, guidance=3.0, do_sample=True, seed=5)
    first, second = await asyncio.gather(model.compose(request), model.compose(request))
    assert first.data == second.data
    with wave.open(io.BytesIO(first.data)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (RATE, 1, round(0.4 * RATE))
    with pytest.raises(InvalidRequest, match="at most 30"):
        await model.compose(SoundRequest(text="rain", seconds=31))


def test_it_ends_at_the_next_token_when_nobody_waits_any_more(engine: MusicGen) -> None:
    asked = 0

    def stopped() -> bool:
        nonlocal asked
        asked += 1
        return asked == 5

    assert compose(engine, seconds=30, stopped=stopped).shape == (1, 0)
    assert asked == 5
    assert compose(engine, seed=7).shape == (1, RATE // 2)


async def test_a_client_who_leaves_frees_the_replica_for_the_next(
    engine: MusicGen, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SoundModel(engine, ModelConfig(name="musicgen"), Path())
    composed: list[int] = []
    whole_compose = engine.compose

    def compose(*args: Any, **kwargs: Any) -> Any:
        samples = whole_compose(*args, **kwargs)
        composed.append(samples.shape[1])
        return samples

    monkeypatch.setattr(engine, "compose", compose)
    whole = asyncio.create_task(model.compose(SoundRequest(text="drums", seconds=30)))
    async with asyncio.timeout(60):
        while not model.stats()["slots_busy"]:
            await asyncio.sleep(0.001)
        whole.cancel()
        await model.compose(SoundRequest(text="drums", seconds=0.02))
    assert len(composed) == 2
    assert composed[0] < 30 * RATE, "it was not composed to its end"


def test_a_text_that_is_too_long_is_refused_with_both_numbers(engine: MusicGen) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"at most 512 tokens, and this one has 601") as refused:
        compose(engine, "rain " * 600)
    assert refused.value.param == "text"


def test_what_cannot_be_loaded_says_why(directory: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(directory, other)
    (other / "model.safetensors").write_bytes((directory / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelLoadFailed, match=r"transformers could not load .*other: .*header"):
        load(other)
    (other / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ModelLoadFailed, match="holds no MusicGen model: its model_type is 'bert'"):
        load(other)


def test_a_closed_engine_says_so(directory: Path) -> None:
    closed = load(directory)
    closed.close()
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        compose(closed)
