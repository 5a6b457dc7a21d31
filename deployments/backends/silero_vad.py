"""The `silero-vad` engine: Silero's voice activity detector, run by onnxruntime alone."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

from deployments.backends.base import Progress, SpeechSpan
from deployments.backends.options import read_options
from deployments.backends.speech_spans import SpanRules, find_spans
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid, EngineError, ModelLoadFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATE = 16_000
FRAME = 512
"""Samples per probability: 32 ms."""
CONTEXT = 64
"""Samples of the frame before that the network sees again."""
FRAMES_AT_ONCE = 512
"""By a graph that takes many: 16 s, 1.2 MB."""


class SileroVad:
    """Finds speech as `silero_vad.get_speech_timestamps` does. Implements `base.VoiceActivityDetector`."""

    sample_rate = RATE

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "SileroVad":
        """`parameters.model` is the ONNX file; the config's `options` are the fields of SpanRules.

        Raises ConfigInvalid, and ModelLoadFailed in onnxruntime's own words.
        """
        rules = SpanRules(**read_options(config, {rule.name: float for rule in fields(SpanRules)}))
        if rules.neg_threshold is not None and rules.neg_threshold > rules.threshold:
            raise ConfigInvalid(f"{config.name}: options: neg_threshold must not be above threshold")
        path = models_path / (config.parameters.model or config.name)
        if not path.is_file():
            raise ModelLoadFailed(f"{config.name}: there is no file {path}")
        engine = cls(_open(path), rules)
        engine.detect(np.zeros(RATE, np.float32))
        progress(1.0)
        return engine

    def __init__(self, session: onnxruntime.InferenceSession, rules: SpanRules) -> None:
        inputs = frozenset(value.name for value in session.get_inputs())
        if inputs not in GRAPHS:
            raise ModelLoadFailed(f"no Silero VAD of version 5 or later: the model's inputs are {', '.join(inputs)}")
        self._probabilities = GRAPHS[inputs]
        self._session: onnxruntime.InferenceSession | None = session
        self._rules = rules

    def detect(self, samples: "NDArray[np.float32]") -> list[SpeechSpan]:
        session = self._session
        if session is None:
            raise EngineError("the engine is closed")
        if not samples.size:
            return []
        try:
            probabilities = self._probabilities(session, _windows(samples))
        except Exception as error:  # onnxruntime's have no base class of their own
            raise EngineError(f"onnxruntime failed: {error}") from error
        spans = find_spans(probabilities.tolist(), FRAME, samples.size, RATE, self._rules)
        return [SpeechSpan(start / RATE, end / RATE) for start, end in spans]

    def stats(self) -> dict[str, float]:
        return {"failed": 0.0}

    def close(self) -> None:
        self._session = None


def _open(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # its layers are too small to be shared
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelLoadFailed(f"onnxruntime could not load {path}: {error}") from error


def _windows(samples: "NDArray[np.float32]") -> "NDArray[np.float32]":
    """[frames, CONTEXT + FRAME]: each frame after the end of the one before, silence around the recording."""
    frames = -(-samples.size // FRAME)
    padded = np.zeros(CONTEXT + frames * FRAME, np.float32)
    padded[CONTEXT : CONTEXT + samples.size] = samples
    return np.lib.stride_tricks.sliding_window_view(padded, CONTEXT + FRAME)[::FRAME]


# ---- graphs ----------------------------------------------------------------------------------------------------------


def _frame_by_frame(session: onnxruntime.InferenceSession, windows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    probabilities = np.empty(len(windows), np.float32)
    state, rate = np.zeros((2, 1, 128), np.float32), np.array(RATE, np.int64)
    for place in range(len(windows)):
        output, state = session.run(None, {"input": windows[place : place + 1], "state": state, "sr": rate})
        probabilities[place] = output[0, 0]
    return probabilities


def _many_frames(session: onnxruntime.InferenceSession, windows: "NDArray[np.float32]") -> "NDArray[np.float32]":
    probabilities = np.empty(len(windows), np.float32)
    hidden = cell = np.zeros((1, 1, 128), np.float32)
    for start in range(0, len(windows), FRAMES_AT_ONCE):
        block = np.ascontiguousarray(windows[start : start + FRAMES_AT_ONCE])
        output, hidden, cell = session.run(["speech_probs", "hn", "cn"], {"input": block, "h": hidden, "c": cell})
        probabilities[start : start + len(block)] = output.reshape(-1)
    return probabilities


GRAPHS: Mapping[frozenset[str], Callable[[Any, Any], "NDArray[np.float32]"]] = {
    frozenset(("input", "state", "sr")): _frame_by_frame,
    frozenset(("input", "h", "c")): _many_frames,
}
"""Inputs of the graphs that Silero publishes (silero_vad.onnx, silero_vad_16k_sequence.onnx) → how they are run. Both
give the same probabilities; the second took 0.6 times as long."""
