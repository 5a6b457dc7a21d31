"""The `transformers-musicgen` engine: music from a description by MusicGen, on torch."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from transformers import (
    AutoTokenizer,
    MusicgenConfig,
    MusicgenForConditionalGeneration,
    StoppingCriteria,
    StoppingCriteriaList,
)

from deployments.backends.base import Progress
from deployments.backends.model_directory import find_directory, read_config
from deployments.backends.torch_device import Placement, place
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded, EngineError, ModelLoadFailed

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEXT_TOKENS = 512
"""What T5, which reads the text, was trained for."""
SEEDS = 2**64
"""torch takes as many."""

transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]


class MusicGen:
    """Composes as `MusicgenForConditionalGeneration.generate` does. Implements `base.Composer`.

    torch's random numbers are the process's: one `compose` at a time.
    """

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "MusicGen":
        """Blocking; nothing comes from the network. Raises ModelLoadFailed in the library's own words."""
        directory = find_directory(config, models_path)
        if (kind := read_config(directory).get("model_type")) != MusicgenConfig.model_type:
            raise ModelLoadFailed(f"{config.name}: {directory} holds no MusicGen model: its model_type is {kind!r}")
        placement = place(config)
        try:
            tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
            model = _open(directory, placement)
        except Exception as error:
            raise ModelLoadFailed(f"{config.name}: transformers could not load {directory}: {error}") from error
        progress(0.9)
        engine = cls(model, tokenizer)
        engine.compose("a", seconds=0.1, guidance=None, do_sample=None, seed=None, stopped=lambda: False)
        progress(1.0)
        return engine

    def __init__(self, model: Any, tokenizer: Any) -> None:
        audio, decoder = model.config.audio_encoder, model.config.decoder
        self.sample_rate: int = audio.sampling_rate
        self._frame_rate: float = audio.frame_rate
        self.max_seconds = _longest(model) / self._frame_rate
        self._lag = decoder.num_codebooks // decoder.audio_channels - 1
        """Tokens after a frame's first one until its last: each codebook is one behind the one before it."""
        self._max_length = min(tokenizer.model_max_length, TEXT_TOKENS)
        self._channels: int = decoder.audio_channels
        self._tokenizer = tokenizer
        self._model: Any = model
        self._failed = False

    def compose(
        self,
        text: str,
        *,
        seconds: float,
        guidance: float | None,
        do_sample: bool | None,
        seed: int | None,
        stopped: Callable[[], bool],
    ) -> "NDArray[np.float32]":
        """Samples [channels, length], of the duration asked for; none when it was stopped.

        Raises ContextLengthExceeded for a text that is too long, and EngineError.
        """
        if self._model is None:
            raise EngineError("the engine is closed")
        inputs = self._tokenize(text).to(self._model.device)
        chosen = {"guidance_scale": guidance, "do_sample": do_sample}
        _seed(seed)
        try:
            audio = self._model.generate(
                **inputs,
                **{name: value for name, value in chosen.items() if value is not None},
                max_new_tokens=math.ceil(seconds * self._frame_rate) + self._lag,
                stopping_criteria=StoppingCriteriaList([_Abort(stopped)]),
            )
            samples: NDArray[np.float32] = audio[0].float().cpu().numpy()
        except _Aborted:
            return np.empty((self._channels, 0), np.float32)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise EngineError(f"the GPU's memory is full: {error}") from error
        except torch.AcceleratorError as error:
            self._failed = True  # no CUDA call works in this process any more
            raise EngineError(f"the GPU failed: {error}") from error
        except (RuntimeError, IndexError, ValueError) as error:
            raise EngineError(f"the model failed: {error}") from error
        return samples[:, : round(seconds * self.sample_rate)]

    def stats(self) -> dict[str, float]:
        return {"failed": float(self._failed)}

    def close(self) -> None:
        self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _tokenize(self, text: str) -> Any:
        inputs = self._tokenizer(text, return_tensors="pt")
        if (length := inputs["input_ids"].shape[1]) > self._max_length:
            raise ContextLengthExceeded(
                f"this model's texts have at most {self._max_length} tokens, and this one has {length}"
            ).at("text")
        return inputs


class _Aborted(Exception):
    """Nobody waits for the music any more."""


class _Abort(StoppingCriteria):
    """Ends generation at the next token, without decoding what there is to audio."""

    def __init__(self, stopped: Callable[[], bool]) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        if self._stopped():
            raise _Aborted
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)


def _open(directory: Path, placement: Placement) -> Any:
    model: Any = MusicgenForConditionalGeneration.from_pretrained(
        directory, dtype=placement.dtype, local_files_only=True, use_safetensors=True
    )
    return model.to(placement.device).eval()


def _longest(model: Any) -> int:
    """Frames that the model was trained for: what its files say, or for how many its decoder has positions."""
    frames: int = model.generation_config.max_length or model.config.decoder.max_position_embeddings
    return frames


def _seed(seed: int | None) -> None:
    """Without a seed the numbers must not go on from another request's."""
    if seed is None:
        torch.seed()
    else:
        torch.manual_seed(seed % SEEDS)
