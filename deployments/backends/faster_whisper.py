"""The `faster-whisper` engine: Whisper on CTranslate2."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ctranslate2
import faster_whisper
import numpy as np
from faster_whisper import WhisperModel

from deployments.backends.audio_sections import SHORTEST_SILENCE_MS, Section, sections
from deployments.backends.base import Progress, Segment, SegmentGroup, TranscriptionRequest, Word
from deployments.backends.whisper_model import FileModel, FilePipeline
from deployments.backends.whisper_options import CPU_BATCH, GPU_BATCH, LADDER, WhisperOptions, whisper_options
from deployments.backends.whisper_windows import Left, WindowBatcher
from deployments.backends.word_segments import split_words
from deployments.config import ModelConfig, default_threads
from deployments.errors import ConfigInvalid, EngineError, InvalidRequest, ModelLoadFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILES = ("config.json", "model.bin", "tokenizer.json")
"""Of a model converted to CTranslate2. Without its tokenizer the library would look for one on the network."""
CPU_COMPUTE_TYPE = "int8"
"""Five clips of tiny.en on one AVX-512 thread took 2.9 s, in float32 5.1 s, with the same words."""
FILES_AT_ONCE = 32
FRAMES_PER_S = 100
"""Unit of `Segment.seek`."""


class FasterWhisper:
    """Transcribes as faster-whisper does, windows of different files together. Implements `base.Transcriber`.

    A file of one window goes the way of `WhisperModel.transcribe`, a longer one that of `BatchedInferencePipeline`:
    the library's own code, in the thread of the file, on a model that is shared (`FileModel`).
    """

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "FasterWhisper":
        """`parameters.model` is a directory of CTranslate2 in the models directory; `options` are those of
        `whisper_options`, `quantization` is CTranslate2's compute type.

        Raises ConfigInvalid, and ModelLoadFailed in the library's own words.
        """
        options = whisper_options(config)
        directory = _find_directory(config, models_path)
        engine = cls(_open(config, directory), config, options)
        progress(0.9)
        engine.warm_up()
        progress(1.0)
        return engine

    def __init__(self, model: WhisperModel, config: ModelConfig, options: WhisperOptions) -> None:
        self.sample_rate: int = model.feature_extractor.sampling_rate
        self.parallel = config.parallel or FILES_AT_ONCE
        self.max_seconds = options.max_seconds
        self._languages: list[str] = model.supported_languages
        self._language = _language_code(config.parameters.language)
        if self._language is not None and self._language not in self._languages:
            known = ", ".join(self._languages)
            raise ConfigInvalid(f'{config.name}: parameters.language is "{self._language}"; this model knows {known}')
        self._translate = bool(config.parameters.translate)
        self._temperature = config.parameters.temperature
        self._options = options
        self._model = model
        self._batch_size = options.batch_size or (CPU_BATCH if model.model.device == "cpu" else GPU_BATCH)
        self._batcher = WindowBatcher(model.model, self._batch_size)

    def warm_up(self) -> None:
        """A first window: what doesn't work, such as a missing library of the GPU, is known now.

        Raises ModelLoadFailed.
        """
        model = FileModel(self._model, self._batcher, lambda: False)
        silence = np.zeros((1, model.model.n_mels, model.feature_extractor.nb_max_frames), np.float32)
        sot = model.hf_tokenizer.token_to_id("<|startoftranscript|>")
        try:
            model.model.generate(model.encode(silence), [[sot]], beam_size=1, max_length=2)
        except EngineError as error:
            raise ModelLoadFailed(f"a first window failed: {error.message}") from error

    def transcribe(
        self, audio: "Iterator[NDArray[np.float32]]", request: TranscriptionRequest, stopped: Callable[[], bool]
    ) -> Iterator[SegmentGroup]:
        language = self._language_of(request)
        model = FileModel(self._model, self._batcher, stopped)
        try:
            window, rest = self._first_window(audio)
            if rest is None:
                yield from self._one_window(model, window, language, request)
            else:
                yield from self._long(model, sections(chain([window], rest), self.sample_rate), language, request)
        except Left:
            return

    def stats(self) -> dict[str, float]:
        return self._batcher.stats()

    def close(self) -> None:
        self._batcher.close()
        self._model.model.unload_model()

    def _language_of(self, request: TranscriptionRequest) -> str | None:
        """None: to be detected."""
        language = _language_code(request.language) or self._language
        if language is not None and language not in self._languages:
            raise InvalidRequest(
                f'language "{request.language}" is not one of those that this model knows: {", ".join(self._languages)}'
            ).at("language")
        return language if len(self._languages) > 1 else self._languages[0]

    def _decoding(self, request: TranscriptionRequest) -> dict[str, Any]:
        """Arguments of the library's `transcribe`."""
        temperature = self._temperature if request.temperature is None else request.temperature
        # Markup of special tokens would be read as those tokens.
        prompt = re.sub(r"<\|", "< |", request.prompt or "").strip()
        return {
            **self._options.decoding,
            "task": "translate" if request.translate or self._translate else "transcribe",
            "temperature": (temperature,) if temperature else LADDER,
            "initial_prompt": prompt or None,
            "word_timestamps": request.word_timestamps,
        }

    def _first_window(
        self, audio: "Iterator[NDArray[np.float32]]"
    ) -> "tuple[NDArray[np.float32], Iterator[NDArray[np.float32]] | None]":
        """The file's beginning, and the rest of it; None: it is not longer than a window."""
        blocks: list[NDArray[np.float32]] = []
        samples = 0
        for block in audio:
            blocks.append(block)
            samples += block.size
            if samples > self._model.feature_extractor.n_samples:
                return np.concatenate(blocks), audio
        return np.concatenate(blocks), None

    def _one_window(
        self,
        model: FileModel,
        samples: "NDArray[np.float32]",
        language: str | None,
        request: TranscriptionRequest,
    ) -> Iterator[SegmentGroup]:
        language = language or model.language_of(samples)
        yield SegmentGroup([], language=language, duration=samples.size / self.sample_rate)
        segments, _ = model.transcribe(samples, language=language, **self._decoding(request))
        for number, found in enumerate(segments):
            yield SegmentGroup([_segment(found, number, found.temperature)])

    def _long(
        self, model: FileModel, audio: Iterator[Section], language: str | None, request: TranscriptionRequest
    ) -> Iterator[SegmentGroup]:
        """Section by section, so that a recording of hours is never held as a whole.

        Windows are read without Whisper's timestamps: it often stops at one long before the window's end, and nothing
        here reads on from there. Times come from the words.
        """
        options = self._decoding(request)
        number = samples = 0
        for section in audio:
            samples += section.samples.size
            pipeline = FilePipeline(model, options["temperature"])
            segments, info = pipeline.transcribe(
                section.samples,
                language=language,
                batch_size=self._batch_size,
                **{
                    **options,
                    "word_timestamps": request.word_timestamps or request.segment_timestamps,
                    "vad_filter": True,
                    "vad_parameters": {"min_silence_duration_ms": SHORTEST_SILENCE_MS, **self._options.vad},
                },
            )
            if language is None and info.duration_after_vad:
                language = info.language
            yield SegmentGroup([], language=language)
            for found in segments:
                window = _segment(found, number, pipeline.temperatures[found.seek], section.start)
                parts = list(self._sentences(window, request))
                yield SegmentGroup(parts)
                number += len(parts)
        yield SegmentGroup([], language=language or self._languages[0], duration=samples / self.sample_rate)

    def _sentences(self, window: Segment, request: TranscriptionRequest) -> Iterator[Segment]:
        """A window's segment by its words; as it is where it has none."""
        if not window.words:
            yield window
            return
        for number, words in enumerate(split_words(window.words), window.id):
            text = "".join(word.word for word in words)
            yield replace(
                window,
                id=number,
                start=words[0].start,
                end=words[-1].end,
                text=text,
                tokens=self._model.hf_tokenizer.encode(text, add_special_tokens=False).ids,
                words=words if request.word_timestamps else [],
            )


def _segment(found: faster_whisper.transcribe.Segment, number: int, temperature: float, offset: float = 0.0) -> Segment:
    """The library's segment of a section that begins `offset` seconds after the file."""
    return Segment(
        id=number,
        start=round(float(found.start) + offset, 3),
        end=round(float(found.end) + offset, 3),
        text=found.text,
        tokens=list(found.tokens),
        temperature=temperature,
        avg_logprob=float(found.avg_logprob),
        compression_ratio=float(found.compression_ratio),
        no_speech_prob=float(found.no_speech_prob),
        seek=found.seek + round(FRAMES_PER_S * offset),
        words=[
            Word(
                word=word.word,
                start=round(float(word.start) + offset, 3),
                end=round(float(word.end) + offset, 3),
                probability=float(word.probability),
            )
            for word in found.words or []
        ],
    )


def _language_code(language: str | None) -> str | None:
    """`en` of "EN" and "en-US"."""
    return re.split("[-_]", language.strip().lower())[0] or None if language else None


def _find_directory(config: ModelConfig, models_path: Path) -> Path:
    """Raises ModelLoadFailed that names what is missing."""
    named = models_path / (config.parameters.model or config.name)
    directory = named.parent if named.name in FILES else named
    missing = [name for name in FILES if not (directory / name).is_file()]
    if missing:
        raise ModelLoadFailed(
            f"{config.name}: {directory} is no Whisper model of CTranslate2: it has no {', '.join(missing)}. "
            "Files of whisper.cpp (ggml-….bin) and of transformers are not read: convert them with "
            "ct2-transformers-converter, or install a model from a gallery"
        )
    return directory


def _open(config: ModelConfig, directory: Path) -> WhisperModel:
    on_gpu = bool(config.num_gpus)
    if on_gpu and not ctranslate2.get_cuda_device_count():
        raise ModelLoadFailed(
            f"{config.name}: num_gpus is {config.num_gpus:g}, but CTranslate2 sees no GPU here; set num_gpus to 0"
        )
    device = "cuda" if on_gpu else "cpu"
    default = ("float16" if config.f16 else "default") if on_gpu else CPU_COMPUTE_TYPE
    compute_type = config.quantization or default
    supported = {*ctranslate2.get_supported_compute_types(device), "default", "auto"}
    if compute_type not in supported:
        raise ConfigInvalid(
            f'{config.name}: quantization is "{compute_type}"; CTranslate2 has {", ".join(sorted(supported))} here'
        )
    try:
        return WhisperModel(
            str(directory),
            device=device,
            compute_type=compute_type,
            cpu_threads=config.threads or default_threads(),
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelLoadFailed(f"{config.name}: CTranslate2 could not load {directory}: {error}") from error
