"""faster-whisper's model as one file's thread sees it: the library's own algorithms, on windows that share batches."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ctranslate2
import numpy as np
from faster_whisper import BatchedInferencePipeline, WhisperModel
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import TranscriptionOptions, get_compression_ratio

from deployments.backends.whisper_windows import Call, Prompts, WindowBatcher, Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

SOT, NO_TIMESTAMPS = "<|startoftranscript|>", "<|notimestamps|>"


class FileModel(WhisperModel):  # type: ignore[misc]  # the library ships no types
    """A loaded model for one file: what it computes goes through the batcher that all files share."""

    def __init__(self, loaded: WhisperModel, batcher: WindowBatcher, stopped: Callable[[], bool]) -> None:
        self.__dict__.update(loaded.__dict__)
        sot, no_timestamps = (self.hf_tokenizer.token_to_id(token) for token in (SOT, NO_TIMESTAMPS))
        self.model = _SharedWhisper(loaded.model, batcher, stopped, sot, no_timestamps)
        self._last: Windows | None = None

    def encode(self, features: "NDArray[np.float32]") -> Windows:
        """Nothing yet: the first that needs them encodes them. The same windows again are not encoded again."""
        features = features if features.ndim == 3 else features[None]
        if self._last is None or not np.array_equal(self._last.features, features):
            self._last = Windows(np.ascontiguousarray(features, np.float32))
        return self._last

    def language_of(self, samples: "NDArray[np.float32]") -> str:
        """Detected in the first window, which `transcribe` then finds encoded."""
        features = self.feature_extractor(samples)
        frames = max(1, features.shape[-1] - 1)  # the last one is padding, which `transcribe` leaves out
        language: str = self.detect_language(features=features[..., :frames])[0]
        return language


class FilePipeline(BatchedInferencePipeline):  # type: ignore[misc]
    """The library's batched pipeline, with what it leaves out: the fallback to higher temperatures."""

    def __init__(self, model: FileModel, temperatures: tuple[float, ...]) -> None:
        super().__init__(model=model)
        self._ladder = temperatures
        self._window_temperatures: list[float] = []
        self.temperatures: dict[int, float] = {}
        """Segment's `seek` → the temperature at which it was decoded."""

    def forward(
        self,
        features: "NDArray[np.float32]",
        tokenizer: Tokenizer,
        chunks_metadata: list[dict[str, Any]],
        options: TranscriptionOptions,
    ) -> list[list[dict[str, Any]]]:
        segments: list[list[dict[str, Any]]] = super().forward(features, tokenizer, chunks_metadata, options)
        for window, temperature in zip(segments, self._window_temperatures, strict=True):
            self.temperatures.update((segment["seek"], temperature) for segment in window)
        return segments

    def generate_segment_batched(
        self, features: "NDArray[np.float32]", tokenizer: Tokenizer, options: TranscriptionOptions
    ) -> tuple[Windows, list[dict[str, Any]]]:
        windows, outputs = super().generate_segment_batched(features, tokenizer, options)
        self._window_temperatures = [self._ladder[0]] * len(outputs)
        for place, output in enumerate(outputs):
            if len(self._ladder) > 1 and _needs_fallback(output, tokenizer, options):
                self._window_temperatures[place] = self._decode_again(windows[place], output, tokenizer, options)
        return windows, outputs

    def _decode_again(
        self, window: Windows, output: dict[str, Any], tokenizer: Tokenizer, options: TranscriptionOptions
    ) -> float:
        """Up the ladder, as `WhisperModel` does; returns the temperature."""
        earlier = tokenizer.encode(options.initial_prompt) if options.initial_prompt is not None else []
        prompt = self.model.get_prompt(
            tokenizer, earlier, without_timestamps=options.without_timestamps, hotwords=options.hotwords
        )
        options.temperatures = list(self._ladder[1:])
        try:
            result, avg_logprob, temperature, _ = self.model.generate_with_fallback(window, prompt, tokenizer, options)
        finally:
            options.temperatures = list(self._ladder[:1])
        output.update(avg_logprob=avg_logprob, no_speech_prob=result.no_speech_prob, tokens=result.sequences_ids[0])
        return float(temperature)


class _SharedWhisper:
    """Stands in for `ctranslate2.models.Whisper` in the library's code."""

    def __init__(
        self,
        model: ctranslate2.models.Whisper,
        batcher: WindowBatcher,
        stopped: Callable[[], bool],
        sot: int,
        no_timestamps: int,
    ) -> None:
        self.is_multilingual: bool = model.is_multilingual
        self.n_mels: int = model.n_mels
        self._model = model
        self._batcher = batcher
        self._stopped = stopped
        self._sot, self._no_timestamps = sot, no_timestamps

    def generate(self, windows: Windows, prompts: Prompts, **options: Any) -> list[Any]:
        """Those of equal options share a batch; CTranslate2 also wants prompts of one shape. Sampling is for one
        alone: in a batch its random numbers would depend on the others."""
        prompt = prompts[0]
        sampled = options.get("sampling_topk") == 0
        shape = (len(prompt), prompt.index(self._sot), self._no_timestamps in prompt)
        alike = None if sampled else ("generate", shape, tuple(sorted(options.items())))
        return self._run(
            windows, lambda encoded, joined: self._model.generate(encoded, joined, **options), prompts, alike
        )

    def detect_language(self, windows: Windows) -> list[Any]:
        return self._run(windows, lambda encoded, _: self._model.detect_language(encoded), [], "detect_language")

    def align(self, windows: Windows, *arguments: Any, **options: Any) -> list[Any]:
        return self._run(windows, lambda encoded, _: self._model.align(encoded, *arguments, **options), [], None)

    def _run(self, windows: Windows, method: Any, prompts: Prompts, alike: Any) -> list[Any]:
        return list(self._batcher.run(Call(windows, method, self._stopped, prompts, alike)))


def _needs_fallback(output: dict[str, Any], tokenizer: Tokenizer, options: TranscriptionOptions) -> bool:
    """The rule of `WhisperModel.generate_with_fallback`: repetitive, or improbable where somebody speaks."""
    improbable = options.log_prob_threshold is not None and output["avg_logprob"] < options.log_prob_threshold
    if (
        improbable
        and options.no_speech_threshold is not None
        and output["no_speech_prob"] > options.no_speech_threshold
    ):
        return False
    text = tokenizer.decode(output["tokens"]).strip()
    longest = options.compression_ratio_threshold
    return improbable or (longest is not None and get_compression_ratio(text) > longest)
