"""The `coqui` engine: models of Coqui TTS (VITS, XTTS, …) from a directory, on torch."""

import logging
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from TTS.tts.models import setup_model

from deployments.backends.base import Progress
from deployments.backends.coqui_files import find_checkpoint, find_directory, read_config
from deployments.backends.speech_options import SpeechOptions
from deployments.backends.torch_device import place
from deployments.backends.voice_choice import choose_language, no_such_voice
from deployments.config import ModelConfig
from deployments.errors import (
    ConfigInvalid,
    EngineError,
    InvalidRequest,
    MantaError,
    ModelLoadFailed,
    UnsupportedParameter,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger("manta.coqui")

VOICES_KEPT = 16
"""Cloned voices: cloning one takes as long as a sentence."""


class Coqui:
    """One model. Implements `base.Voice`.

    A voice is a speaker of the model or, where it clones voices, an audio file in the models directory.
    """

    parallel = 1
    """A model's speed is a field of the model."""

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "Coqui":
        """`parameters.model` is the model's directory. Blocking; nothing comes from the network.

        Checkpoints are pickles, read with torch's `weights_only`: they can't run code. Raises ModelLoadFailed in the
        library's own words.
        """
        directory = find_directory(config, models_path)
        placement = place(config)
        try:
            engine = cls(_load(config, models_path, directory).to(placement.device), config, models_path)
            progress(0.9)
            if engine.speaks(config.tts.voice):  # what is missing is missed now
                engine.synthesize("One.", voice=config.tts.voice, language=config.parameters.language, speed=1)
        except (ConfigInvalid, ModelLoadFailed):
            raise
        except Exception as error:
            raise ModelLoadFailed(f"{config.name}: Coqui could not load {directory}: {error}") from error
        progress(1.0)
        return engine

    def __init__(self, model: Any, config: ModelConfig, models_path: Path) -> None:
        self._model = model
        self._names = {config.name, config.parameters.model}
        self._models_path = models_path.resolve()
        own = model.config
        speakers = getattr(model, "speaker_manager", None)
        self.clones = bool(own.supports_cloning or getattr(speakers, "encoder", None))
        self.sample_rate: int = own.audio.get("output_sample_rate") or own.audio.sample_rate
        names: list[str] = speakers.speaker_names if speakers else []
        self.voices = names if len(names) > 1 or self.clones else []
        self._languages: list[str] = list(own.languages) or ["en"]
        self.languages = self._languages if len(self._languages) > 1 else []
        self._length_scale = getattr(model, "length_scale", None)
        self._trims = bool(own.audio.get("do_trim_silence"))
        self._reference = _reference(config, models_path)
        model.clone_voice = _remembered(model.clone_voice)
        _set_noise(model, config)

    def speaks(self, voice: str | None) -> bool:
        """Whether it has a voice for those who name this one, or none."""
        return bool(voice or self.voices or self._reference or not self.clones)

    def synthesize(self, text: str, *, voice: str | None, language: str | None, speed: float) -> "NDArray[np.float32]":
        """As `base.Voice`. Without a voice: the config's `tts.audio_path`, else the model's first speaker.

        Raises UnsupportedParameter for a speed where the architecture has none.
        """
        if self._model is None:
            raise EngineError("the model was unloaded")
        speaker, reference = self._speaker(voice)
        settings = self._at_speed(speed)
        spoken = choose_language(language, self._languages)
        try:
            with torch.inference_mode():
                answer = self._model.synthesize(
                    text,
                    speaker=speaker,
                    speaker_wav=reference,
                    language=spoken,
                    use_griffin_lim=True,
                    do_trim_silence=self._trims,
                    **settings,
                )
        except MantaError:
            raise
        except Exception as error:
            raise EngineError(f"Coqui: {type(error).__name__}: {error}") from error
        wave = answer["wav"]
        samples = wave.cpu().numpy() if isinstance(wave, torch.Tensor) else np.asarray(wave)
        return samples.squeeze().astype(np.float32, copy=False)

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._model = None

    def _speaker(self, voice: str | None) -> tuple[str | None, str | None]:
        """The name of a speaker, or the path of speech to clone a voice from."""
        if voice is None or (voice in self._names and voice not in self.voices):
            if self._reference:
                return None, self._reference
            if self.clones and not self.voices:
                raise InvalidRequest(
                    "this model clones voices and has none: voice must be an audio file in the models directory"
                ).at("voice")
            return (self.voices[0] if self.voices else None), None
        if voice in self.voices:
            return voice, None
        if not self.clones:
            raise no_such_voice(voice, self.voices or sorted(filter(None, self._names)))
        return None, self._recording(voice)

    def _recording(self, voice: str) -> str:
        """A file inside the models directory, wherever links may lead. Raises InvalidRequest."""
        try:
            path = (self._models_path / voice).resolve()
            found = path.is_relative_to(self._models_path) and path.is_file()
        except (OSError, ValueError):  # no name that a file can have
            found = False
        if not found:
            raise no_such_voice(voice, [*self.voices, "any audio file in the models directory"])
        return str(path)

    def _at_speed(self, speed: float) -> dict[str, float]:
        """Make the model speak as fast. Returns what its `synthesize` must be told."""
        if self._model.config.model == "xtts":
            return {"speed": speed}
        if self._length_scale is not None:
            self._model.length_scale = self._length_scale / speed
        elif speed != 1:
            raise UnsupportedParameter(f"{self._model.config.model} models have one speed").at("speed")
        return {}


def _load(config: ModelConfig, models_path: Path, directory: Path) -> torch.nn.Module:
    """As the library's `Synthesizer` does, without its network, segmenters and lists of floats."""
    own = read_config(config, directory)
    model: Any = setup_model(own)
    checkpoint = find_checkpoint(config, models_path, directory)
    model.load_checkpoint(own, checkpoint_path=str(checkpoint), eval=True)
    encoder = own.get("model_args") and own.model_args.get("speaker_encoder_model_path")
    if encoder and getattr(model, "speaker_manager", None):
        model.speaker_manager.init_encoder(encoder, own.model_args.speaker_encoder_config_path, bool(config.num_gpus))
        model._register_speaker_encoder()  # noqa: SLF001 – Synthesizer calls it too
    loaded: torch.nn.Module = model
    return loaded


def _reference(config: ModelConfig, models_path: Path) -> str | None:
    """Speech whose voice is the default one. Raises ConfigInvalid where the file is missing."""
    named = config.tts.audio_path or (config.tts.vall_e or {}).get("audio_path")
    if not named:
        return None
    path = models_path / named
    if not path.is_file():
        raise ConfigInvalid(f"{config.name}: tts.audio_path: there is no file {path}")
    return str(path)


def _remembered(clone: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A model's `clone_voice`, which would listen to the recording again for each sentence."""

    @lru_cache(VOICES_KEPT)
    def cloned(path: str, changed_ns: int, settings: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
        return clone(path, **dict(settings))

    def clone_voice(path: str, speaker: None = None, folder: None = None, **settings: Any) -> dict[str, Any]:
        try:
            return cloned(path, Path(path).stat().st_mtime_ns, tuple(sorted(settings.items())))
        except Exception as error:
            logger.warning("cloning a voice from %s failed: %s", path, error)
            raise InvalidRequest(f'"{Path(path).name}" is not some seconds of audio, to clone a voice from').at(
                "voice"
            ) from error

    return clone_voice


def _set_noise(model: Any, config: ModelConfig) -> None:
    options = SpeechOptions.read(config)
    for name, value in (
        ("inference_noise_scale", options.noise_scale),
        ("inference_noise_scale_dp", options.noise_w),
    ):
        if value is None:
            continue
        if not hasattr(model, name):
            raise ConfigInvalid(f"{config.name}: options: {model.config.model} models have no noise_scale and noise_w")
        setattr(model, name, value)
