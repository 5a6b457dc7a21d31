"""The `piper` engine: Piper's VITS voices (an .onnx file and its .onnx.json), by onnxruntime."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from piper import PiperVoice, SynthesisConfig
from piper.config import PiperConfig

from deployments.backends.base import Progress
from deployments.backends.speech_options import SpeechOptions
from deployments.backends.voice_choice import choose_language, no_such_voice
from deployments.config import ModelConfig, default_threads
from deployments.errors import EngineError, ModelLoadFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Piper:
    """One voice file, which may hold several speakers. Implements `base.Voice`."""

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "Piper":
        """`parameters.model` is the .onnx file, or a folder that holds one. Blocking; nothing comes from the network.

        Raises ModelLoadFailed in the library's own words, or naming the file that is missing.
        """
        model = _find(config, models_path)
        options = SpeechOptions.read(config)
        threads = config.threads or default_threads()
        parallel = min(config.parallel or 1, max(1, threads // 2))
        try:
            description = json.loads(Path(f"{model}.json").read_text(encoding="utf-8"))
            voice = PiperVoice(
                _session(model, threads - parallel + 1, on_gpu=bool(config.num_gpus)),
                PiperConfig.from_dict(description),
                download_dir=model.parent,
            )
            engine = cls(voice, parallel, options, names={config.name, model.name, model.stem})
            progress(0.9)
            # What is missing is missed now.
            engine.synthesize("1", voice=config.tts.voice, language=config.parameters.language, speed=1)
        except ModelLoadFailed:
            raise
        except Exception as error:
            raise ModelLoadFailed(f"{config.name}: Piper could not load {model}: {error}") from error
        progress(1.0)
        return engine

    def __init__(self, voice: PiperVoice, parallel: int, options: SpeechOptions, names: set[str]) -> None:
        """`names`: what a client may call the voice itself; LocalAI's clients name the file."""
        self._voice: PiperVoice | None = voice
        self._config = voice.config
        self._options = options
        self._names = names
        self._speakers: dict[str, int] = dict(self._config.speaker_id_map)
        if not self._speakers and self._config.num_speakers > 1:
            self._speakers = {str(speaker): speaker for speaker in range(self._config.num_speakers)}
        self.sample_rate = self._config.sample_rate
        self.voices = list(self._speakers)
        self.languages: list[str] = []
        self.parallel = parallel

    def synthesize(self, text: str, *, voice: str | None, language: str | None, speed: float) -> "NDArray[np.float32]":
        """As `base.Voice`; several sentences as Piper itself strings them together."""
        settings = SynthesisConfig(
            speaker_id=self._speaker(voice),
            length_scale=self._config.length_scale / speed,
            noise_scale=self._options.noise_scale,
            noise_w_scale=self._options.noise_w,
        )
        choose_language(language, [self._config.espeak_voice])
        if self._voice is None:
            raise EngineError("the model was unloaded")
        try:
            chunks = [chunk.audio_float_array for chunk in self._voice.synthesize(text, settings)]
        except Exception as error:
            raise EngineError(f"Piper: {error}") from error
        return np.concatenate(chunks) if chunks else np.zeros(0, np.float32)

    def stats(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._voice = None

    def _speaker(self, voice: str | None) -> int | None:
        """None: the model's own default."""
        if voice is None or voice in self._names:
            return None
        if voice not in self._speakers:
            raise no_such_voice(voice, self.voices or sorted(self._names))
        return self._speakers[voice]


def _find(config: ModelConfig, models_path: Path) -> Path:
    """Raises ModelLoadFailed where the voice or its description is missing."""
    named = models_path / (config.parameters.model or config.name)
    files = sorted(named.glob("*.onnx")) if named.is_dir() else [named, named.with_name(f"{named.name}.onnx")]
    model = next((file for file in files if file.is_file()), None)
    if model is None:
        raise ModelLoadFailed(f"{config.name}: there is no Piper voice (.onnx) {named}")
    if not Path(f"{model}.json").is_file():
        raise ModelLoadFailed(f"{config.name}: {model} has no {model.name}.json beside it, which describes the voice")
    return model


def _session(model: Path, threads: int, *, on_gpu: bool) -> onnxruntime.InferenceSession:
    """Each call of it works in a thread of its own and in `threads - 1` that all calls share."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # they would starve other replicas
    providers: list[Any] = ["CPUExecutionProvider"]
    if on_gpu:
        if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
            raise ModelLoadFailed("num_gpus is set, but this onnxruntime sees no GPU: install onnxruntime-gpu")
        # Piper's own choice: an exhaustive search would be run again for every length of text.
        providers = [("CUDAExecutionProvider", {"cudnn_conv_algo_search": "HEURISTIC"})]
    return onnxruntime.InferenceSession(str(model), options, providers=providers)
