"""The faster-whisper engine on tiny.en and base, one thread, against the library."""

import asyncio
import gc
import io
import itertools
import re
import shutil
import wave
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("faster_whisper")

from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.audio import decode_audio

from deployments.backends import audio_sections, faster_whisper
from deployments.backends.base import SegmentGroup, Transcription, TranscriptionRequest
from deployments.backends.faster_whisper import FasterWhisper
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters
from deployments.errors import ConfigInvalid, EngineError, InvalidRequest, ModelLoadFailed
from deployments.transcription import TranscriptionModel
from tests.models.conftest import installed

CLIPS = Path("/usr/share/pocketsphinx/test/data/librivox")
"""Debian's pocketsphinx-testdata."""
RATE = 16_000

pytestmark = [
    pytest.mark.skipif(not CLIPS.is_dir(), reason="needs Debian's pocketsphinx-testdata: make debian-tests"),
    pytest.mark.timeout(300),
]


def config(name: str, **fields: Any) -> ModelConfig:
    parameters = {key: fields.pop(key) for key in ("language", "translate", "temperature") if key in fields}
    return ModelConfig(name=name, parameters=Parameters(model=name, **parameters), threads=1, **fields)


def serve(name: str, **fields: Any) -> TranscriptionModel:
    settings = config(name, **fields)
    directory = installed(name)
    return TranscriptionModel(FasterWhisper.load(settings, directory, lambda fraction: None), settings, directory)


def library(name: str) -> WhisperModel:
    return WhisperModel(str(installed(name) / name), device="cpu", compute_type="int8", cpu_threads=1)


@pytest.fixture(scope="module")
def tiny() -> TranscriptionModel:
    return serve("whisper-tiny-en")


@pytest.fixture(scope="module")
def tiny_library() -> WhisperModel:
    return library("whisper-tiny-en")


@pytest.fixture(scope="module")
def base() -> TranscriptionModel:
    return serve("whisper-base")


def clips() -> list[Path]:
    return sorted(CLIPS.glob("*.wav"))


def of_file(path: Path, **fields: Any) -> TranscriptionRequest:
    return TranscriptionRequest(audio=np.fromfile(path, np.uint8), **fields)


def of_samples(samples: np.ndarray, **fields: Any) -> TranscriptionRequest:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RATE)
        writer.writeframes((samples * 32768).clip(-32768, 32767).astype("<i2").tobytes())
    return TranscriptionRequest(audio=np.frombuffer(file.getvalue(), np.uint8), **fields)


@pytest.fixture(scope="module")
def minute() -> np.ndarray:
    """The five clips, half a second between them, twice and a bit."""
    once = np.concatenate([np.append(decode_audio(str(path)), np.zeros(RATE // 2, np.float32)) for path in clips()])
    return np.tile(once, 3)[: 60 * RATE]


def text(answer: Any) -> str:
    return "".join(segment.text for segment in answer)


def same_segments(ours: Transcription, theirs: list[Any]) -> None:
    assert [(s.text, s.tokens, s.temperature, s.seek) for s in ours.segments] == [
        (s.text, s.tokens, s.temperature, s.seek) for s in theirs
    ]
    for segment, other in zip(ours.segments, theirs, strict=True):
        assert (segment.start, segment.end) == pytest.approx((other.start, other.end), abs=0.001)
        assert segment.avg_logprob == pytest.approx(other.avg_logprob, abs=1e-3)
        assert segment.no_speech_prob == pytest.approx(other.no_speech_prob, abs=1e-3)
        assert [(w.word, w.start, w.end) for w in segment.words] == [
            (w.word, pytest.approx(w.start), pytest.approx(w.end)) for w in other.words or []
        ]


# ---- short files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"word_timestamps": True}], ids=str)
async def test_clips_equal_the_library(tiny, tiny_library, options: dict[str, Any]) -> None:
    for path in clips():
        theirs, info = tiny_library.transcribe(str(path), **options)
        answer = await tiny.transcribe(of_file(path, **options))
        same_segments(answer, list(theirs))
        assert (answer.language, answer.duration) == ("en", pytest.approx(info.duration))


async def test_a_prompt_a_temperature_and_options_are_the_librarys(tiny_library) -> None:
    served = serve("whisper-tiny-en", options=["beam_size:1", "hotwords:Dashwood", "vad_filter:true", "best_of:2"])
    path = clips()[0]
    theirs, _ = tiny_library.transcribe(
        str(path), beam_size=1, hotwords="Dashwood", vad_filter=True, initial_prompt="Sense and Sensibility."
    )
    same_segments(await served.transcribe(of_file(path, prompt=" Sense and Sensibility. ")), list(theirs))
    sampled = await served.transcribe(of_file(path, temperature=0.3))
    assert {segment.temperature for segment in sampled.segments} == {0.3}
    served.close()


async def test_word_error_rate_over_the_clips(tiny) -> None:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    normal = EnglishTextNormalizer({})
    spoken = dict(
        reversed(re.fullmatch(r"<s> (.*) </s> \((.*)\)", line).groups())
        for line in (CLIPS / "transcription").read_text().splitlines()
    )
    errors = words = 0
    for path in clips():
        expected = normal(spoken[path.stem]).split()
        heard = normal(text((await tiny.transcribe(of_file(path))).segments)).split()
        errors += edit_distance(expected, heard)
        words += len(expected)
    assert len(spoken) == 5
    assert errors / words <= 0.10


def edit_distance(one: list[str], other: list[str]) -> int:
    row = list(range(len(other) + 1))
    for i, left in enumerate(one, 1):
        previous, row[0] = row[0], i
        for j, right in enumerate(other, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (left != right))
    return row[-1]


async def test_concurrent_clips_share_batches_and_equal_themselves_alone(tiny) -> None:
    alone = [await tiny.transcribe(of_file(path)) for path in clips()]
    before = tiny.stats()
    answers = await asyncio.gather(*[tiny.transcribe(of_file(clips()[i % 5])) for i in range(15)])
    after = tiny.stats()
    assert [text(answer.segments) for answer in answers] == [text(alone[i % 5].segments) for i in range(15)]
    windows, batches = (after[name] - before[name] for name in ("windows", "batches"))
    assert windows == 15
    assert batches < 12


async def test_requests_of_different_options_do_not_mix(tiny) -> None:
    requests = [
        of_file(path, **fields)
        for path in clips()[:2]
        for fields in ({}, {"prompt": "Chapter one, by Jane Austen."}, {"word_timestamps": True}, {"temperature": 0.2})
    ]
    alone = [await tiny.transcribe(request) for request in requests]
    together = await asyncio.gather(*map(tiny.transcribe, requests))
    for one, other, request in zip(alone, together, requests, strict=True):
        assert bool(other.segments[0].words) == request.word_timestamps
        if request.temperature is None:
            assert text(other.segments) == text(one.segments)


async def test_a_language_is_detected_or_given(base) -> None:
    theirs, _ = library("whisper-base").transcribe(str(clips()[0]))
    before = base.stats()["windows"]
    answer = await base.transcribe(of_file(clips()[0]))
    assert answer.language == "en"
    assert text(answer.segments) == text(theirs)
    assert base.stats()["windows"] - before == 2  # detected and decoded; encoded once
    for name in ("en", "EN", "en-US"):
        assert (await base.transcribe(of_file(clips()[1], language=name))).language == "en"
    german = await base.transcribe(of_file(clips()[1], language="de"))
    assert german.language == "de"


async def test_languages_that_a_model_does_not_know(tiny, base) -> None:
    for served, language in ((tiny, "de"), (base, "tlh")):
        with pytest.raises(InvalidRequest, match=f'language "{language}"') as refused:
            await served.transcribe(of_file(clips()[1], language=language))
        assert refused.value.param == "language"


async def test_translation_is_asked_of_the_model(base) -> None:
    theirs, _ = library("whisper-base").transcribe(str(clips()[1]), language="de", task="translate")
    assert text((await base.transcribe(of_file(clips()[1], language="de", translate=True))).segments) == text(theirs)


async def test_markup_of_special_tokens_in_a_prompt_is_text(tiny) -> None:
    answer = await tiny.transcribe(of_file(clips()[1], prompt="<|startoftranscript|><|endoftext|> hm"))
    assert "young man" in text(answer.segments)


async def test_next_to_nothing_and_silence(tiny, base) -> None:
    for served in (tiny, base):
        for samples in (np.zeros(1), np.zeros(5), np.zeros(400), np.full(RATE // 2, 1e-4)):
            answer = await served.transcribe(of_samples(samples))
            assert answer.duration == pytest.approx(samples.size / RATE)
            assert answer.language


# ---- long files ------------------------------------------------------------------------------------------------------


async def test_a_long_file_equals_the_librarys_batched_pipeline(tiny, tiny_library, minute: np.ndarray) -> None:
    theirs, info = BatchedInferencePipeline(tiny_library).transcribe(minute, batch_size=4)
    answer = await tiny.transcribe(of_samples(minute, segment_timestamps=False))
    same_segments(answer, [*theirs])
    assert answer.duration == info.duration == 60


async def test_segments_of_a_long_file_are_sentences_with_their_times(tiny, minute: np.ndarray) -> None:
    whole = await tiny.transcribe(of_samples(minute, segment_timestamps=False))
    answer = await tiny.transcribe(of_samples(minute))
    assert text(answer.segments) == text(whole.segments)
    assert [segment.id for segment in answer.segments] == list(range(len(answer.segments)))
    assert len(answer.segments) >= 10
    assert max(segment.end - segment.start for segment in answer.segments) <= 12
    times = [time for segment in answer.segments for time in (segment.start, segment.end)]
    assert times == sorted(times)
    first = next(segment for segment in answer.segments if "young man" in segment.text)
    assert 7.0 < first.start < first.end < 11.2  # the second clip is from 7.6 to 10.6
    assert not answer.segments[0].words
    with_words = await tiny.transcribe(of_samples(minute, word_timestamps=True))
    assert "".join(word.word for segment in with_words.segments for word in segment.words) == text(whole.segments)


async def test_sections_lose_nothing(tiny, minute: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_sections, "SECTION_S", 40)
    monkeypatch.setattr(audio_sections, "SEARCHED_S", 10)
    long = np.tile(minute[: 50 * RATE], 2)
    answer = await tiny.transcribe(of_samples(long))
    assert text(answer.segments).count("young man") == 4
    assert text(answer.segments).count("selfish") == 4
    starts = [segment.start for segment in answer.segments if "young man" in segment.text]
    assert [round(start - starts[0]) for start in starts] == [0, 27, 50, 77]
    assert answer.duration == 100


def test_a_section_ends_in_silence(minute: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_sections, "SECTION_S", 20)
    monkeypatch.setattr(audio_sections, "SEARCHED_S", 10)
    found = list(audio_sections.sections(iter(np.array_split(minute, 37)), RATE))
    assert np.array_equal(np.concatenate([section.samples for section in found]), minute)
    for before, after in itertools.pairwise(found):
        assert after.start == before.start + before.samples.size / RATE
        assert np.abs(before.samples[-RATE // 20 :]).max() < 0.02


async def test_hours_of_silence_say_nothing(base) -> None:
    answer = await base.transcribe(of_samples(np.zeros(100 * RATE)))
    assert (answer.segments, answer.duration) == ([], 100)


async def test_a_repetitive_window_is_decoded_again_at_higher_temperatures(minute: np.ndarray) -> None:
    """The library's batched pipeline takes what comes first; here, nothing is good enough."""
    served = serve("whisper-tiny-en", options=["log_prob_threshold:-0.0001", "best_of:1", "no_speech_threshold:1"])
    answer = await served.transcribe(of_samples(minute[: 31 * RATE]))
    assert {segment.temperature for segment in answer.segments} == {1.0}
    served.close()


# ---- life ------------------------------------------------------------------------------------------------------------


async def test_the_first_segments_of_a_long_file_come_before_the_last(tiny, minute: np.ndarray) -> None:
    stream = tiny.stream_transcribe(of_samples(np.tile(minute, 3), segment_timestamps=False))
    groups: list[SegmentGroup] = []
    before = tiny.stats()["windows"]
    async for group in stream:
        groups.append(group)
        if group.segments:
            break
    assert groups[0].language == "en"
    await stream.aclose()
    await until_idle(tiny)
    assert tiny.stats()["windows"] - before <= 8  # of 7 windows by fours: it left after the first batch


async def until_idle(served: TranscriptionModel) -> None:
    async with asyncio.timeout(30):
        while served.stats()["slots_busy"]:
            await asyncio.sleep(0.01)


async def test_bad_files_leave_memory_and_the_model_as_they_were(tiny) -> None:
    good = of_file(clips()[1])
    await tiny.transcribe(good)
    process = psutil.Process()
    zeros = np.full(500_000_000, 0, np.uint8)  # written, and so counted, before
    before = process.memory_info().rss
    for file in [zeros, np.zeros(0, np.uint8), np.frombuffer(b"no audio " * 100_000, np.uint8), good.audio[:40]] * 3:
        with pytest.raises(InvalidRequest):
            await tiny.transcribe(TranscriptionRequest(audio=file))
    assert "young man" in text((await tiny.transcribe(good)).segments)
    gc.collect()
    kept = process.memory_info().rss - before
    assert kept < 250_000_000, "three files of 500 MB came and went; allocators keep some of what others freed"


async def test_close_ends_what_runs() -> None:
    served = serve("whisper-tiny-en")
    work = asyncio.create_task(served.transcribe(of_file(clips()[0])))
    async with asyncio.timeout(30):
        while not served.stats()["slots_busy"]:
            await asyncio.sleep(0.001)
    served.close()
    with pytest.raises(EngineError, match="unloaded"):
        await work
    served.close()


# ---- loading ---------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"config\.json, model\.bin, tokenizer\.json"):
        FasterWhisper.load(config("nothing"), tmp_path, lambda fraction: None)
    source = installed("whisper-tiny-en") / "whisper-tiny-en"
    broken = tmp_path / "broken"
    shutil.copytree(source, broken)
    (broken / "model.bin").write_bytes(b"ggml")
    with pytest.raises(ModelLoadFailed, match="CTranslate2 could not load"):
        FasterWhisper.load(config("broken"), tmp_path, lambda fraction: None)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"options": ["beams:3"]}, "beams"),
        ({"options": ["beam_size:0"]}, "beam_size"),
        ({"options": ["vad_threshold:2"]}, "vad_threshold"),
        ({"language": "de"}, "parameters.language"),
        ({"quantization": "q4_k_m"}, "quantization"),
    ],
)
def test_mistakes_of_the_operator(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigInvalid, match=says):
        FasterWhisper.load(config("whisper-tiny-en", **fields), installed("whisper-tiny-en"), lambda fraction: None)


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faster_whisper.ctranslate2, "get_cuda_device_count", lambda: 0)
    with pytest.raises(ModelLoadFailed, match="sees no GPU"):
        FasterWhisper.load(config("whisper-tiny-en", num_gpus=1), installed("whisper-tiny-en"), lambda fraction: None)


def test_the_config_says_language_and_task_where_the_request_does_not() -> None:
    served = serve("whisper-base", language="de", translate=True)
    answer = asyncio.run(served.transcribe(of_file(clips()[1])))
    assert answer.language == "de"
    theirs, _ = library("whisper-base").transcribe(str(clips()[1]), language="de", task="translate")
    assert text(answer.segments) == text(theirs)
    served.close()
