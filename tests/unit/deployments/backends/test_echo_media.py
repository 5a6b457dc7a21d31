"""Echo's engines of sound and images: each in its deployment, as the others are."""

import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("av")

from deployments.backends.base import ImageRequest, SoundRequest, SpeechRequest, Task, TranscriptionRequest, VadRequest
from deployments.backends.registry import engine_class
from deployments.config import ModelConfig
from deployments.image import ImageModel
from deployments.sound import SoundModel
from deployments.speech import SpeechModel
from deployments.transcription import TranscriptionModel
from deployments.vad import VadModel
from tests.localai import wav


def model(deployment: type[Any], task: Task, *options: str) -> Any:
    config = ModelConfig(name="echo", backend="echo", options=list(options))
    return deployment(engine_class("echo", task).load(config, Path(), lambda _: None), config, Path())


def seconds(content: bytes) -> float:
    with wave.open(io.BytesIO(content)) as file:
        return file.getnframes() / file.getframerate()


async def test_a_tenth_of_a_second_for_each_word() -> None:
    chunk = await model(SpeechModel, Task.SPEECH).speak(SpeechRequest(text="one two three four"))
    assert seconds(chunk.data) >= 0.4


async def test_a_sound_as_long_as_was_asked_for() -> None:
    chunk = await model(SoundModel, Task.SOUND).compose(SoundRequest(text="rain", seconds=1.5))
    assert seconds(chunk.data) == pytest.approx(1.5)


@pytest.mark.parametrize(("options", "text"), [((), " 0.00 0.00"), (("answer:This is the",), " This is")])
async def test_what_is_heard(options: tuple[str, ...], text: str) -> None:
    request = TranscriptionRequest(audio=np.frombuffer(wav(2), np.uint8), language="de")
    heard = await model(TranscriptionModel, Task.TRANSCRIPTION, *options).transcribe(request)
    assert "".join(segment.text for segment in heard.segments) == text
    assert (heard.language, heard.duration) == ("de", pytest.approx(2, abs=0.01))


async def test_speech_is_what_is_loud() -> None:
    audio = np.concatenate([np.zeros(8000), np.full(8000, 0.5), np.zeros(8000)]).astype(np.float32)
    (span,) = await model(VadModel, Task.VAD).detect(VadRequest(audio=audio))
    assert (span.start, span.end) == (0.5, 1.0)
    assert await model(VadModel, Task.VAD).detect(VadRequest(audio=np.zeros(16, np.float32))) == []


async def test_a_seed_is_a_grey() -> None:
    one = await model(ImageModel, Task.IMAGE).paint(ImageRequest(prompt="a", seed=7))
    other = await model(ImageModel, Task.IMAGE).paint(ImageRequest(prompt="b", seed=8))
    assert one.images != other.images and (one.width, one.height, one.seed) == (64, 64, 7)
