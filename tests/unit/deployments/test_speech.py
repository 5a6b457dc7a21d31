"""SpeechModel on a voice that the test holds still: order, turns, limits, files."""

import asyncio
import io
import threading
import wave
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from deployments import speech
from deployments.backends.base import AudioChunk, SpeechRequest
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters, Tts
from deployments.errors import ConfigInvalid, EngineError, InvalidRequest, Overloaded
from deployments.speech import SpeechModel
from tests.unit.waiting import until

RATE = 8000
TENTHS = RATE // 10


class FakeVoice:
    """A sentence takes a tenth of a second per word, at the level that the first word names; "hush" has no sound.

    While `held`, it says nothing; `freed` lets so many sentences through.
    """

    sample_rate = RATE

    def __init__(self, voices: tuple[str, ...] = (), parallel: int = 1) -> None:
        self.voices, self.languages, self.parallel = voices, (), parallel
        self.asked: list[tuple[str, str | None, str | None, float]] = []
        self.said: list[str] = []
        self.closed = False
        self._held = threading.Semaphore(0)
        self._holds = False

    def hold(self) -> None:
        self._holds = True

    def free(self, sentences: int) -> None:
        self._held.release(sentences)

    def synthesize(self, text: str, *, voice: str | None, language: str | None, speed: float) -> np.ndarray:
        self.asked.append((text, voice, language, speed))
        if self._holds:
            assert self._held.acquire(timeout=30)
        self.said.append(text)
        words = text.rstrip(".").lower().split()
        if words[0] == "fail":
            raise EngineError("the voice broke")
        if words[0] == "hush":
            return np.zeros(0, np.float32)
        level = float(words[0]) if words[0][0].isdigit() or words[0] == "nan" else 0.5
        return np.full(TENTHS * len(words), level, np.float32)

    def stats(self) -> dict[str, float]:
        return {"fake": 1.0}

    def close(self) -> None:
        self.closed = True


def model(voice: FakeVoice, options: list[str] | None = None, **fields: Any) -> SpeechModel:
    settings = options if options is not None else ["sentence_silence:0"]
    return SpeechModel(voice, ModelConfig(name="fake", backend="fake", options=settings, **fields), Path())


def samples(wav: bytes) -> np.ndarray:
    with wave.open(io.BytesIO(wav)) as file:
        assert file.getframerate() == RATE and file.getnchannels() == 1
        return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32767


def text(*levels: float, words: int = 3) -> str:
    return " ".join(f"{level} {'word ' * (words - 2)}Word." for level in levels)


async def first(stream: AsyncGenerator[AudioChunk, None]) -> bytes:
    return (await anext(stream)).data


async def test_the_whole_file_says_how_long_it_is_and_holds_the_sentences_in_order() -> None:
    answer = await model(FakeVoice(parallel=3)).speak(SpeechRequest(text=text(0.1, 0.2, 0.3, 0.4)))
    heard = samples(answer.data)
    assert len(answer.data) == 44 + 2 * len(heard) == 44 + 2 * 12 * TENTHS
    assert np.allclose(heard.reshape(4, -1).mean(axis=1), [0.1, 0.2, 0.3, 0.4], atol=1e-4)


async def test_the_stream_is_the_same_audio() -> None:
    request = SpeechRequest(text=text(*(level / 20 for level in range(1, 20))))
    whole = await model(FakeVoice()).speak(request)
    pieces = [piece.data async for piece in model(FakeVoice(parallel=2)).stream_speak(request)]
    assert len(pieces) == 19
    assert b"".join(pieces)[44:] == whole.data[44:]


@pytest.mark.parametrize("name", ["wav", "mp3", "opus", "aac", "flac", "pcm"])
async def test_the_first_audio_comes_after_the_first_sentence(name: str) -> None:
    voice = FakeVoice()
    voice.hold()
    async with aclosing(model(voice).stream_speak(SpeechRequest(text=text(0.1, 0.2, words=20), format=name))) as stream:
        voice.free(1)
        assert len(await first(stream)) > 100
        assert len(voice.said) == 1
        voice.free(1)
        assert sum([len(piece.data) async for piece in stream]) > 100


async def test_a_compressed_file_is_one_file() -> None:
    answer = await model(FakeVoice()).speak(SpeechRequest(text=text(0.1, 0.2, 0.3), format="flac"))
    with av.open(io.BytesIO(answer.data)) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) == 9 * TENTHS


async def test_there_is_a_pause_between_sentences_and_nowhere_else() -> None:
    request = SpeechRequest(text=text(0.1, 0.2) + " Hush now please. " + text(0.3))
    heard = samples((await model(FakeVoice(), ["sentence_silence:0.1"]).speak(request)).data)
    assert np.allclose(heard.reshape(-1, TENTHS).mean(axis=1), [0.1] * 3 + [0] + [0.2] * 3 + [0] + [0.3] * 3, atol=1e-4)


async def test_a_long_text_holds_up_a_short_one_by_one_sentence() -> None:
    voice = FakeVoice()
    served = model(voice)
    voice.hold()
    long = asyncio.create_task(served.speak(SpeechRequest(text=text(*[0.1] * 50))))
    await until(lambda: voice.asked)
    short = asyncio.create_task(served.speak(SpeechRequest(text=text(0.9))))
    await until(lambda: served.stats()["slots_busy"] == 2)
    voice.free(3)
    await short
    assert voice.said.index(text(0.9)) <= 2
    voice.free(49)
    await long


async def test_tenants_take_turns() -> None:
    voice = FakeVoice()
    served = model(voice)
    voice.hold()
    crowd = [asyncio.create_task(served.speak(SpeechRequest(text=text(0.1), tenant="a"))) for _ in range(20)]
    await until(lambda: served.stats()["queued"] == 19)
    other = asyncio.create_task(served.speak(SpeechRequest(text=text(0.9), tenant="b")))
    await until(lambda: served.stats()["queued"] == 20)
    voice.free(21)
    await asyncio.gather(*crowd, other)
    assert voice.said.index(text(0.9)) <= 2


async def test_a_client_who_leaves_leaves_nothing_behind() -> None:
    voice = FakeVoice()
    served = model(voice)
    voice.hold()
    stream = served.stream_speak(SpeechRequest(text=text(*[0.1] * 50)))
    voice.free(1)
    await first(stream)
    await until(lambda: len(voice.asked) == 2)
    await stream.aclose()
    stats = served.stats()
    assert stats["slots_busy"] == 0 and stats["queued"] == 0
    voice.free(50)
    await served.speak(SpeechRequest(text=text(0.9)))
    assert voice.said[2:] == [text(0.9)], "the sentence that was being spoken ended, no other began"


async def test_a_request_that_is_cancelled_while_it_waits_is_never_spoken() -> None:
    voice = FakeVoice()
    served = model(voice)
    voice.hold()
    running = asyncio.create_task(served.speak(SpeechRequest(text=text(0.1))))
    await until(lambda: voice.asked)
    waiting = asyncio.create_task(served.speak(SpeechRequest(text=text(0.2))))
    await until(lambda: served.stats()["queued"] == 1)
    waiting.cancel()
    await asyncio.wait([waiting])
    voice.free(5)
    await running
    assert voice.said == [text(0.1)] and served.stats()["queued"] == 0


async def test_nobody_is_spoken_to_far_ahead_of_his_listening() -> None:
    voice = FakeVoice()
    served = model(voice)
    async with aclosing(served.stream_speak(SpeechRequest(text=text(*[0.1] * 50)))) as stream:
        await first(stream)
        await until(lambda: len(voice.said) >= speech.AHEAD)
        await until(lambda: not any(served._threads.stats().values()))
        assert len(voice.said) == speech.AHEAD
        assert len([piece async for piece in stream]) == 49


async def test_too_many_that_wait_are_told_so() -> None:
    voice = FakeVoice()
    served = model(voice, max_queued_requests=1)
    voice.hold()
    running = asyncio.create_task(served.speak(SpeechRequest(text=text(*[0.1] * 3))))
    await until(lambda: voice.asked)
    waiting = asyncio.create_task(served.speak(SpeechRequest(text=text(0.2))))
    await until(lambda: served.stats()["slots_busy"] == 2)
    with pytest.raises(Overloaded, match="1 requests already wait"):
        await served.speak(SpeechRequest(text=text(0.3)))
    voice.free(4)
    await asyncio.gather(running, waiting)
    voice.free(1)
    assert await served.speak(SpeechRequest(text=text(0.3)))


@pytest.mark.parametrize(
    ("wrong", "param", "says"),
    [
        ({"speed": 0.24}, "speed", "from 0.25 to 4, not 0.24"),
        ({"speed": 4.1}, "speed", "not 4.1"),
        ({"speed": float("nan")}, "speed", "not nan"),
        ({"text": " "}, "input", "empty"),
        ({"text": "***"}, "input", "no words"),
        ({"text": "Hush now please."}, "input", "no sound"),
        ({"text": "a" * 101}, "input", "101 characters; this model takes at most 100"),
        ({"format": "ogg"}, "response_format", '"ogg"; there are: wav'),
    ],
)
async def test_bad_requests(wrong: dict[str, Any], param: str, says: str) -> None:
    voice = FakeVoice()
    served = model(voice, ["max_characters:100"])
    request = SpeechRequest(**{"text": "Some words.", **wrong})
    with pytest.raises(InvalidRequest, match=says) as refused:
        await served.speak(request)
    assert refused.value.param == param
    with pytest.raises(InvalidRequest, match=says):
        await first(served.stream_speak(request))
    assert served.stats()["slots_busy"] == 0


async def test_voice_language_and_speed_of_the_request_or_of_the_config() -> None:
    voice = FakeVoice(voices=("amy", "joe", "echo"))
    served = model(voice, tts=Tts(voice="joe"), parameters=Parameters(language="de"))
    for wanted in (None, "", "amy", "alloy", "echo"):
        await served.speak(SpeechRequest(text="Some words here.", voice=wanted))
    await served.speak(SpeechRequest(text="Some words here.", language="en", speed=2))
    assert [asked[1:] for asked in voice.asked] == [
        ("joe", "de", 1.0),
        ("joe", "de", 1.0),
        ("amy", "de", 1.0),
        ("joe", "de", 1.0),  # OpenAI's name for some voice
        ("echo", "de", 1.0),  # the model's own of that name
        ("joe", "en", 2),
    ]


@pytest.mark.parametrize(("broken", "says"), [("Fail here please.", "broke"), ("Nan and more words.", "not finite")])
async def test_an_engine_that_fails_ends_the_stream_with_its_error(broken: str, says: str) -> None:
    served = model(FakeVoice())
    stream = served.stream_speak(SpeechRequest(text=f"{text(0.1, 0.2)} {broken} {text(0.3)}"))
    assert await first(stream) and await first(stream)
    with pytest.raises(EngineError, match=says):
        await first(stream)
    assert served.stats()["slots_busy"] == 0
    assert await served.speak(SpeechRequest(text=text(0.1))), "others don't notice"


async def test_closing_ends_what_runs_and_frees_the_engine() -> None:
    voice = FakeVoice()
    served = model(voice)
    voice.hold()
    running = asyncio.create_task(served.speak(SpeechRequest(text=text(*[0.1] * 3))))
    await until(lambda: voice.asked)
    voice.free(3)
    served.close()
    with pytest.raises(EngineError, match="unloaded"):
        await running
    with pytest.raises(EngineError, match="unloaded"):
        await served.speak(SpeechRequest(text=text(0.1)))
    assert voice.closed
    served.close()


async def test_stats_count_what_was_done() -> None:
    served = model(FakeVoice())
    await served.speak(SpeechRequest(text=text(0.1, 0.2)))
    stats = served.stats()
    assert stats.pop("busy_s") > 0
    assert stats == {"fake": 1, "slots_busy": 0, "queued": 0, "sentences": 2, "audio_s": pytest.approx(0.6)}


@pytest.mark.parametrize("option", ["sentence_silence:-1", "sentence_silence:nan", "loudness:3", "max_characters:many"])
def test_options_are_strict(option: str) -> None:
    with pytest.raises(ConfigInvalid, match=option.partition(":")[0]):
        model(FakeVoice(), [option])
