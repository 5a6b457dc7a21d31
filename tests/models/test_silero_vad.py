"""The silero-vad engine on LibriVox clips with silence between them, against the package's own call."""

import wave
from collections.abc import Iterator
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
silero_vad = pytest.importorskip("silero_vad")

from silero_vad.utils_vad import get_speech_timestamps_from_probs  # noqa: E402

from deployments.backends.base import VadRequest  # noqa: E402
from deployments.backends.silero_vad import RATE, SileroVad  # noqa: E402
from deployments.backends.speech_spans import SpanRules, find_spans  # noqa: E402
from deployments.config import ModelConfig  # noqa: E402
from deployments.config_blocks import Parameters  # noqa: E402
from deployments.errors import ConfigInvalid, EngineError, ModelLoadFailed  # noqa: E402
from deployments.vad import VadModel  # noqa: E402
from tests.models.conftest import installed  # noqa: E402

CLIPS = Path("/usr/share/pocketsphinx/test/data/librivox")
"""Of Debian's pocketsphinx-testdata."""


def config(*options: str, model: str = "silero-vad.onnx") -> ModelConfig:
    return ModelConfig(name="vad", parameters=Parameters(model=model), options=list(options), threads=2)


@pytest.fixture(scope="module")
def models_path() -> Path:
    return installed("silero-vad")


@pytest.fixture(scope="module")
def engine(models_path: Path) -> SileroVad:
    return SileroVad.load(config(), models_path, lambda _: None)


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return [samples(path) for path in sorted(CLIPS.glob("*.wav"))]


@pytest.fixture(scope="module")
def recording(clips: list[np.ndarray]) -> np.ndarray:
    """All clips, with 0.05 to 1.6 s of silence between them, and an end within a frame."""
    pauses = [np.zeros(round(RATE * 0.05 * 2**place), np.float32) for place in range(len(clips))]
    return np.concatenate([part for pair in zip(clips, pauses, strict=True) for part in pair])[:-100]


@pytest.fixture(scope="module")
def package() -> Any:
    return silero_vad.load_silero_vad(onnx=True)


def samples(path: Path) -> np.ndarray:
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels()) == (RATE, 1)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768


def bounds(spans: list[Any]) -> list[tuple[int, int]]:
    return [(round(span.start * RATE), round(span.end * RATE)) for span in spans]


def theirs(spans: list[dict[str, int]]) -> list[tuple[int, int]]:
    return [(span["start"], span["end"]) for span in spans]


@pytest.mark.parametrize(
    "rules",
    [
        {},
        {"threshold": 0.8, "speech_pad_ms": 200},
        {"threshold": 0.3, "neg_threshold": 0.25, "min_silence_duration_ms": 500},
        {"min_speech_duration_ms": 1500, "min_silence_duration_ms": 0, "speech_pad_ms": 0},
    ],
)
def test_spans_are_those_of_the_package(
    rules: dict[str, float], models_path: Path, recording: np.ndarray, package: Any
) -> None:
    options = [f"{name}:{value}" for name, value in rules.items()]
    ours = SileroVad.load(config(*options), models_path, lambda _: None).detect(recording)
    expected = theirs(silero_vad.get_speech_timestamps(recording.copy(), package, sampling_rate=RATE, **rules))
    assert len(expected) >= 3
    assert bounds(ours) == expected


def random_probabilities() -> Iterator[np.ndarray]:
    """Slow waves and fast ones, with every kind of edge."""
    random = np.random.default_rng(0)
    for _ in range(200):
        smooth = np.convolve(random.random(200), np.full(random.integers(1, 9), 1.0), "same")
        yield np.clip(smooth / smooth.max() + random.normal(0, 0.1, 200), 0, 1)


@pytest.mark.parametrize("rules", [SpanRules(), SpanRules(threshold=0.7, min_silence_duration_ms=33, speech_pad_ms=90)])
def test_the_rules_are_those_of_the_package(rules: SpanRules) -> None:
    found = 0
    for probabilities in random_probabilities():
        length = len(probabilities) * 512 - 7
        expected = get_speech_timestamps_from_probs(
            probabilities.tolist(),
            sampling_rate=RATE,
            audio_length_samples=length,
            threshold=rules.threshold,
            min_speech_duration_ms=int(rules.min_speech_duration_ms),
            min_silence_duration_ms=int(rules.min_silence_duration_ms),
            speech_pad_ms=int(rules.speech_pad_ms),
        )
        assert find_spans(probabilities.tolist(), 512, length, RATE, rules) == theirs(expected)
        found += len(expected)
    assert found > 200


def test_both_published_graphs_find_the_same(engine: SileroVad, recording: np.ndarray) -> None:
    data = Path(str(resources.files("silero_vad.data")))
    for name in ("silero_vad.onnx", "silero_vad_16k_sequence.onnx"):
        assert SileroVad.load(config(model=name), data, lambda _: None).detect(recording) == engine.detect(recording)


def test_finds_the_clips_between_the_silences(engine: SileroVad, clips: list[np.ndarray]) -> None:
    silence = np.zeros(2 * RATE, np.float32)
    for clip in clips:
        spans = engine.detect(np.concatenate([silence, clip, silence]))
        assert spans
        assert spans[0].start == pytest.approx(2, abs=0.5)
        assert spans[-1].end == pytest.approx(2 + len(clip) / RATE, abs=0.5)
        assert all(before.end <= after.start for before, after in pairwise(spans))


@pytest.mark.parametrize("audio", [np.zeros(0), np.zeros(1), np.zeros(RATE), np.full(RATE, 0.5)])
def test_where_nobody_speaks_there_is_no_span(engine: SileroVad, audio: np.ndarray) -> None:
    assert engine.detect(audio.astype(np.float32)) == []


async def test_a_recording_at_another_rate_has_the_same_times(engine: SileroVad, recording: np.ndarray) -> None:
    model = VadModel(engine, config(), Path())
    whole = await model.detect(VadRequest(audio=recording))
    doubled = np.repeat(recording, 2)
    doubled.flags.writeable = False  # as it comes out of Ray's object store
    at_another = await model.detect(VadRequest(audio=doubled, sample_rate=2 * RATE))
    assert len(at_another) == len(whole)
    for one, other in zip(whole, at_another, strict=True):
        assert (one.start, one.end) == pytest.approx((other.start, other.end), abs=0.1)


def test_what_cannot_be_loaded_says_why(models_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"there is no file .*absent\.onnx"):
        SileroVad.load(config(model="absent.onnx"), models_path, lambda _: None)
    (tmp_path / "bad.onnx").write_bytes(b"no protobuf")
    with pytest.raises(ModelLoadFailed, match="onnxruntime could not load"):
        SileroVad.load(config(model="bad.onnx"), tmp_path, lambda _: None)
    with pytest.raises(ConfigInvalid, match="max_speech"):
        SileroVad.load(config("max_speech:3"), models_path, lambda _: None)
    with pytest.raises(ConfigInvalid, match="neg_threshold must not be above"):
        SileroVad.load(config("neg_threshold:0.6"), models_path, lambda _: None)


def test_a_closed_engine_says_so(models_path: Path) -> None:
    closed = SileroVad.load(config(), models_path, lambda _: None)
    closed.close()
    closed.close()
    with pytest.raises(EngineError, match="closed"):
        closed.detect(np.zeros(RATE, np.float32))
