"""The piper engine on the starter gallery's voice: as Piper itself, understood by Whisper, soon heard."""

import json
import shutil
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("piper")
pytest.importorskip("faster_whisper")

from piper import PiperVoice, SynthesisConfig

from deployments.backends.base import SpeechRequest
from deployments.backends.piper import Piper
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters
from deployments.errors import EngineError, InvalidRequest, ModelLoadFailed
from deployments.speech import SpeechModel
from tests.models.conftest import installed
from tests.models.round_trip import SENTENCES, word_error_rate

VOICE = "en_US-joe-medium.onnx"
SENTENCE = SENTENCES[0]


@pytest.fixture(scope="module")
def models_path() -> Path:
    return installed("voice-en-us-joe-medium")


def config(model: str = VOICE, *options: str) -> ModelConfig:
    return ModelConfig(name="joe", parameters=Parameters(model=model), options=list(options), threads=1, parallel=32)


@pytest.fixture(scope="module")
def engine(models_path: Path) -> Piper:
    return Piper.load(config(), models_path, lambda _: None)


def say(engine: Piper, text: str = SENTENCE, **asked: object) -> np.ndarray:
    return engine.synthesize(text, **{"voice": None, "language": None, "speed": 1.0, **asked})  # type: ignore[arg-type]


def test_it_says_what_piper_says(models_path: Path) -> None:
    still = Piper.load(config(VOICE, "noise_scale:0", "noise_w:0"), models_path, lambda _: None)
    settings = SynthesisConfig(noise_scale=0, noise_w_scale=0)
    own = PiperVoice.load(models_path / VOICE).synthesize(f"{SENTENCE} {SENTENCES[1]}", settings)
    expected = np.concatenate([chunk.audio_float_array for chunk in own])
    assert np.allclose(say(still, f"{SENTENCE} {SENTENCES[1]}"), expected, atol=1e-3)


async def test_whisper_understands_it(engine: Piper, models_path: Path) -> None:
    assert await word_error_rate(SpeechModel(engine, config(), models_path)) <= 0.1


async def test_the_first_audio_of_ten_sentences_comes_after_the_first(
    engine: Piper, models_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make bench-speech` has the times."""
    model = SpeechModel(engine, config(), models_path)
    begun: list[str] = []
    synthesize = engine.synthesize

    def counted(text: str, **options: Any) -> Any:
        begun.append(text)
        return synthesize(text, **options)

    monkeypatch.setattr(engine, "synthesize", counted)
    request = SpeechRequest(text=" ".join([*SENTENCES, *SENTENCES]), format="mp3")
    async with aclosing(model.stream_speak(request)) as stream:
        assert (await anext(stream)).data
        assert len(begun) <= 2, "one is heard while the next is made"
        assert sum([len(chunk.data) async for chunk in stream]) > 10_000
    assert len(begun) > 5


def test_speed(engine: Piper) -> None:
    normal, slow, fast = (len(say(engine, speed=speed)) for speed in (1.0, 0.5, 2.0))
    assert slow / normal == pytest.approx(2, rel=0.25)
    assert 0.4 < fast / normal < 0.75, "no sound of VITS is shorter than a frame, so it is less than twice as fast"


@pytest.mark.parametrize("name", ["joe", VOICE, VOICE.removesuffix(".onnx"), None])
def test_its_own_names_are_the_voice(engine: Piper, name: str | None) -> None:
    assert len(say(engine, voice=name, language="en")) > engine.sample_rate


@pytest.mark.parametrize(("param", "value"), [("voice", "amy"), ("language", "de")])
def test_what_it_doesnt_have(engine: Piper, param: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f'"{value}"') as refused:
        say(engine, **{param: value})
    assert refused.value.param == param


def test_a_voice_of_several_speakers_has_their_names(models_path: Path, tmp_path: Path) -> None:
    """This graph has no input for a speaker: what counts is what Piper is asked for."""
    description = json.loads((models_path / f"{VOICE}.json").read_text())
    description.update(num_speakers=2, speaker_id_map={"amy": 0, "ben": 1}, default_speaker_id=1)
    (tmp_path / VOICE).symlink_to(models_path / VOICE)
    (tmp_path / f"{VOICE}.json").write_text(json.dumps(description))
    with pytest.raises(ModelLoadFailed, match="sid"):
        Piper.load(config(), tmp_path, lambda _: None)
    voice = PiperVoice.load(tmp_path / VOICE)
    engine = Piper(voice, 1, Piper.load(config(), models_path, lambda _: None)._options, {"joe"})
    assert engine.voices == ["amy", "ben"]
    assert engine._speaker("ben") == 1 and engine._speaker("amy") == 0 and engine._speaker("joe") is None
    with pytest.raises(InvalidRequest, match="amy, ben"):
        engine._speaker("joe2")


def test_a_folder_that_holds_the_voice(models_path: Path, tmp_path: Path) -> None:
    shutil.copytree(models_path, tmp_path / "joe")
    assert len(say(Piper.load(config("joe"), tmp_path, lambda _: None))) > 0
    (tmp_path / "joe" / f"{VOICE}.json").unlink()
    with pytest.raises(ModelLoadFailed, match=r"onnx\.json beside it"):
        Piper.load(config("joe"), tmp_path, lambda _: None)
    with pytest.raises(ModelLoadFailed, match="no Piper voice"):
        Piper.load(config("nobody"), tmp_path, lambda _: None)


def test_a_broken_file_is_an_error_in_the_librarys_words(tmp_path: Path) -> None:
    (tmp_path / VOICE).write_bytes(b"not onnx")
    (tmp_path / f"{VOICE}.json").write_text("{}")
    with pytest.raises(ModelLoadFailed, match=VOICE):
        Piper.load(config(), tmp_path, lambda _: None)


def test_a_closed_engine(models_path: Path) -> None:
    engine = Piper.load(config(), models_path, lambda _: None)
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="unloaded"):
        say(engine)
