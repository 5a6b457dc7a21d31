"""The coqui engine: VITS as Piper's voice converted, XTTS with random weights, and what is not loaded."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("TTS")
pytest.importorskip("faster_whisper")

import torch

from deployments.backends.base import SpeechRequest
from deployments.backends.coqui import Coqui
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters, Tts
from deployments.errors import ConfigInvalid, EngineError, InvalidRequest, ModelLoadFailed
from deployments.speech import SpeechModel
from tests.models.conftest import CACHE, installed
from tests.models.round_trip import SENTENCES, word_error_rate

SENTENCE = SENTENCES[0]


@pytest.fixture(scope="module")
def models_path() -> Path:
    """Joe's voice as a Coqui model, converted once."""
    directory = CACHE / "coqui-joe" / "joe-vits"
    if not (directory / "config.json").is_file():
        from tests.fixtures.piper2coqui import convert

        convert(installed("voice-en-us-joe-medium") / "en_US-joe-medium.onnx", directory)
    return directory.parent


def config(model: str = "joe-vits", *options: str, **fields: Any) -> ModelConfig:
    return ModelConfig(name="joe", parameters=Parameters(model=model), options=list(options), threads=1, **fields)


@pytest.fixture(scope="module")
def engine(models_path: Path) -> Coqui:
    return Coqui.load(config(), models_path, lambda _: None)


def say(engine: Coqui, text: str = SENTENCE, **asked: object) -> np.ndarray:
    return engine.synthesize(text, **{"voice": None, "language": None, "speed": 1.0, **asked})  # type: ignore[arg-type]


def test_it_says_what_coqui_says(engine: Coqui, models_path: Path) -> None:
    from TTS.utils.synthesizer import Synthesizer

    directory = models_path / "joe-vits"
    own = Synthesizer(tts_checkpoint=directory / "model.pth", tts_config_path=directory / "config.json")
    torch.manual_seed(7)
    expected = np.array(own.tts(SENTENCE, split_sentences=False), np.float32)
    torch.manual_seed(7)
    said = say(engine)
    assert np.allclose(said, expected[: len(said)], atol=1e-4)
    assert not expected[len(said) :].any(), "the library adds silence"


async def test_whisper_understands_it(engine: Coqui, models_path: Path) -> None:
    assert await word_error_rate(SpeechModel(engine, config(), models_path)) <= 0.1


async def test_several_sentences_are_one_file(engine: Coqui, models_path: Path) -> None:
    model = SpeechModel(engine, config("joe-vits", "sentence_silence:0"), models_path)
    pieces = [piece async for piece in model.stream_speak(SpeechRequest(text=" ".join(SENTENCES[:3]), format="pcm"))]
    assert len(pieces) == 3
    assert sum(len(piece.data) for piece in pieces) / 2 / engine.sample_rate == pytest.approx(12, abs=4)


def test_speed(engine: Coqui) -> None:
    normal, slow, fast = (len(say(engine, speed=speed)) for speed in (1.0, 0.5, 2.0))
    assert slow / normal == pytest.approx(2, rel=0.25)
    assert 0.4 < fast / normal < 0.75, "no sound of VITS is shorter than a frame, so it is less than twice as fast"


def test_noise_is_an_option(models_path: Path) -> None:
    still = Coqui.load(config("joe-vits", "noise_scale:0", "noise_w:0"), models_path, lambda _: None)
    assert np.array_equal(say(still), say(still))


def test_its_own_name_is_the_voice(engine: Coqui) -> None:
    assert len(say(engine, voice="joe", language="en-GB")) > engine.sample_rate


@pytest.mark.parametrize(("param", "value"), [("voice", "amy"), ("language", "fr")])
def test_what_it_doesnt_have(engine: Coqui, param: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f'"{value}"') as refused:
        say(engine, **{param: value})
    assert refused.value.param == param


def test_a_closed_engine(models_path: Path) -> None:
    engine = Coqui.load(config(), models_path, lambda _: None)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="unloaded"):
        say(engine)


# ---- several speakers and languages ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(models_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VITS of two speakers and two languages with random weights, whose files were elsewhere when it was trained."""
    from TTS.config import load_config
    from TTS.tts.models.vits import Vits

    directory = tmp_path_factory.mktemp("models") / "two"
    directory.mkdir()
    (directory / "speakers.json").write_text(json.dumps({"amy": 0, "ben": 1}))
    (directory / "language_ids.json").write_text(json.dumps({"de": 0, "en": 1}))
    own: Any = load_config(models_path / "joe-vits" / "config.json")
    own.use_phonemes, own.phonemizer, own.text_cleaner = False, None, "basic_cleaners"
    for part in (own, own.model_args):
        part.use_speaker_embedding = part.use_language_embedding = True
        part.num_speakers = 2
        part.speakers_file = str(directory / "speakers.json")
        part.language_ids_file = str(directory / "language_ids.json")
    torch.manual_seed(0)
    torch.save({"model": Vits(own).state_dict()}, directory / "best.pth")
    for part in (own, own.model_args):
        part.speakers_file, part.language_ids_file = "/home/trainer/speakers.json", "/home/trainer/language_ids.json"
    own.languages, own.speakers = [], []
    own.save_json(str(directory / "config.json"))
    return directory.parent


def test_speakers_and_languages(several: Path) -> None:
    engine = Coqui.load(config("two", "noise_scale:0", "noise_w:0"), several, lambda _: None)
    assert engine.voices == ["amy", "ben"] and engine.languages == ["de", "en"]
    amy, ben, german = say(engine, voice="amy"), say(engine, voice="ben"), say(engine, voice="amy", language="de-AT")
    assert np.array_equal(say(engine), amy), "the first speaker and English, where nobody asks"
    assert not np.array_equal(amy, ben)
    assert not np.array_equal(amy, german)
    with pytest.raises(InvalidRequest, match='no voice "eve"; it has: amy, ben'):
        say(engine, voice="eve")
    with pytest.raises(InvalidRequest, match="it speaks: de, en"):
        say(engine, language="fr")


def test_a_file_that_the_config_names_and_nobody_brought(several: Path) -> None:
    speakers = several / "two" / "speakers.json"
    text = speakers.read_text()
    speakers.unlink()
    try:
        with pytest.raises(ModelLoadFailed, match=r'lacks the file "speakers\.json"'):
            Coqui.load(config("two"), several, lambda _: None)
    finally:
        speakers.write_text(text)


# ---- cloned voices ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def xtts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models directory with an XTTS of one small layer and random weights, and with a recording."""
    from tokenizers import Tokenizer, models
    from TTS.tts.configs.xtts_config import XttsArgs, XttsConfig
    from TTS.tts.layers.xtts.tokenizer import VoiceBpeTokenizer
    from TTS.tts.models.xtts import Xtts

    path = tmp_path_factory.mktemp("models")
    directory = path / "xtts"
    directory.mkdir()
    special = ["[STOP]", "[UNK]", "[SPACE]", "[START]", "[en]", "[de]"]
    vocabulary = {token: number for number, token in enumerate([*special, *"abcdefghijklmnopqrstuvwxyz.,!?'-"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(directory / "vocab.json"))
    args = XttsArgs(
        gpt_layers=1,
        gpt_n_model_channels=64,
        gpt_n_heads=2,
        gpt_max_audio_tokens=24,
        gpt_number_text_tokens=len(vocabulary),
        gpt_start_text_token=vocabulary["[START]"],
        gpt_stop_text_token=vocabulary["[STOP]"],
        gpt_num_audio_tokens=1026,
        gpt_start_audio_token=1024,
        gpt_stop_audio_token=1025,
        gpt_use_perceiver_resampler=True,
        decoder_input_dim=64,
    )
    own = XttsConfig(model_args=args, languages=["en", "de"])
    torch.manual_seed(0)
    model: Any = Xtts(own)
    model.tokenizer = VoiceBpeTokenizer(directory / "vocab.json")
    model.init_models()
    torch.save({"model": model.state_dict()}, directory / "model.pth")
    own.save_json(str(directory / "config.json"))
    record(path / "voices" / "eve.wav", 200)
    record(path / "voices" / "adam.wav", 90)
    (path / "voices" / "text.wav").write_text("no audio")
    record(path.parent / f"{path.name}-outside.wav", 100)
    (path / "voices" / "link.wav").symlink_to(path.parent / f"{path.name}-outside.wav")
    return path


def record(file: Path, hz: float) -> None:
    """A second and a half of a buzz."""
    file.parent.mkdir(exist_ok=True)
    buzz = np.sign(np.sin(np.arange(24_000) / 16_000 * hz * 2 * np.pi)) * np.linspace(0.1, 0.5, 24_000)
    with wave.open(str(file), "wb") as out:
        out.setparams((1, 2, 16_000, 24_000, "NONE", ""))
        out.writeframes((buzz * 32767).astype("<i2").tobytes())


@pytest.fixture(scope="module")
def cloner(xtts: Path) -> Coqui:
    return Coqui.load(config("xtts"), xtts, lambda _: None)


def test_a_voice_is_a_recording_in_the_models_directory(cloner: Coqui) -> None:
    assert cloner.clones and cloner.sample_rate == 24_000 and cloner.languages == ["en", "de"]
    said = []
    for voice in ("voices/eve.wav", "voices/eve.wav", "voices/adam.wav"):
        torch.manual_seed(3)
        said.append(say(cloner, "hello", voice=voice))
    assert np.array_equal(said[0], said[1])
    assert not np.array_equal(said[0], said[2])


def test_a_recording_is_listened_to_once(cloner: Coqui, xtts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = []
    listen = cloner._model.get_conditioning_latents
    monkeypatch.setattr(
        cloner._model, "get_conditioning_latents", lambda **settings: heard.append(1) or listen(**settings)
    )
    record(xtts / "voices" / "new.wav", 150)
    for _ in range(3):
        say(cloner, "hello", voice="voices/new.wav")
    assert len(heard) == 1
    record(xtts / "voices" / "new.wav", 170)
    say(cloner, "hello", voice="voices/new.wav")
    assert len(heard) == 2, "it was replaced"


@pytest.mark.parametrize(
    ("voice", "says"),
    [
        ("voices/nobody.wav", "no voice"),
        ("../../etc/passwd", "no voice"),
        ("/etc/passwd", "no voice"),
        ("voices/link.wav", "no voice"),
        ("voices", "no voice"),
        ("eve\0.wav", "no voice"),
        ("e" * 5000, "no voice"),
        ("voices/text.wav", "not some seconds of audio"),
        (None, "clones voices and has none"),
    ],
)
def test_recordings_that_are_none(cloner: Coqui, voice: str | None, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        say(cloner, "hello", voice=voice)
    assert refused.value.param == "voice"


@pytest.mark.parametrize("tts", [Tts(audio_path="voices/eve.wav"), Tts(vall_e={"audio_path": "voices/eve.wav"})])
def test_the_config_names_the_default_voice(xtts: Path, tts: Tts) -> None:
    engine = Coqui.load(config("xtts", tts=tts), xtts, lambda _: None)
    normal, fast = say(engine, "hello", language="de"), say(engine, "hello", speed=2.0)
    assert len(normal) > 1.5 * len(fast) > 0


def test_a_default_voice_that_isnt_there(xtts: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"audio_path: there is no file .*nobody\.wav"):
        Coqui.load(config("xtts", tts=Tts(audio_path="nobody.wav")), xtts, lambda _: None)


# ---- what is not loaded ----------------------------------------------------------------------------------------------


class Evil:
    """A pickle that runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("/tmp/manta-evil"),)


def test_a_checkpoint_cant_run_code(models_path: Path, tmp_path: Path) -> None:
    (tmp_path / "joe-vits").mkdir()
    (tmp_path / "joe-vits" / "config.json").symlink_to(models_path / "joe-vits" / "config.json")
    torch.save({"model": Evil()}, tmp_path / "joe-vits" / "model.pth")
    with pytest.raises(ModelLoadFailed, match=r"(?i)weights.only"):
        Coqui.load(config(), tmp_path, lambda _: None)
    assert not Path("/tmp/manta-evil").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": "bark"}, "Bark fetches parts of itself"),
        ({"model": "nonsense"}, "nonsense"),
        ({"audio": {"stats_path": "scale_stats.npy"}}, "a pickle, which can run code"),
    ],
)
def test_models_that_are_refused(models_path: Path, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    own = json.loads((models_path / "joe-vits" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**own, **changes}))
    with pytest.raises(ModelLoadFailed, match=says):
        Coqui.load(config("."), tmp_path, lambda _: None)


def test_a_directory_that_holds_no_model_or_several(models_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"no config\.json in it"):
        Coqui.load(config("nobody"), tmp_path, lambda _: None)
    (tmp_path / "config.json").symlink_to(models_path / "joe-vits" / "config.json")
    for name in ("checkpoint_1.pth", "checkpoint_2.pth"):
        (tmp_path / name).symlink_to(models_path / "joe-vits" / "model.pth")
    with pytest.raises(ModelLoadFailed, match=r"holds 2 checkpoints \(\.pth\); name one in parameters\.model"):
        Coqui.load(config("."), tmp_path, lambda _: None)
    assert Coqui.load(config("checkpoint_2.pth"), tmp_path, lambda _: None).sample_rate == 22_050
