"""An encoder that runs on torch: batches of token ids through the model's own modules, rows of floats out."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.backends.base import Tokens
from deployments.backends.encoder_tokenizer import EncoderTokenizer
from deployments.backends.padding import Padding, pad
from deployments.backends.torch_device import Placement
from deployments.errors import EngineError, ModelLoadFailed


@dataclass(frozen=True, slots=True)
class LoadedEncoder:
    """A model in memory, and how its inputs are made."""

    model: torch.nn.Module
    tokenizer: EncoderTokenizer
    padding: Padding
    placement: Placement
    inputs: frozenset[str]
    """Which of input_ids, attention_mask and token_type_ids the model takes."""
    constants: Mapping[str, Any]
    """Features that are the same for every batch."""


class TorchEncoder(ABC):
    """What embedders and rerankers share of `base.Encoder`."""

    def __init__(self, loaded: LoadedEncoder, width: int) -> None:
        self.width = width
        self.max_length = loaded.tokenizer.max_length
        self.batch_tokens = loaded.placement.batch_tokens
        self.parallel_batches = loaded.placement.parallel_batches
        self._tokenizer = loaded.tokenizer
        self._device = loaded.placement.device
        self._open: LoadedEncoder | None = loaded
        self._failed = False

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        loaded = self._open
        if loaded is None:
            raise EngineError("the engine is closed")
        try:
            with torch.inference_mode():
                rows = self._rows(loaded.model, _features(batch, loaded))
                return np.ascontiguousarray(rows.float().cpu().numpy())
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise EngineError(f"the GPU's memory is full; a smaller parameters.batch needs less: {error}") from error
        except torch.AcceleratorError as error:
            self._failed = True  # no CUDA call works in this process any more
            raise EngineError(f"the GPU failed: {error}") from error
        except (RuntimeError, IndexError, ValueError) as error:
            raise EngineError(f"the model failed: {error}") from error

    def warm_up(self) -> None:
        """A first batch, on a GPU a full one: kernels are chosen and memory is taken now, not by the first request.

        Raises ModelLoadFailed.
        """
        on_cpu = self._device.type == "cpu"
        tokens = Tokens([self._tokenizer.any_id] * (8 if on_cpu else self.max_length))
        try:
            self.encode([tokens] * (1 if on_cpu else max(1, self.batch_tokens // self.max_length)))
        except EngineError as error:
            raise ModelLoadFailed(f"a first batch failed: {error.message}") from error

    def stats(self) -> dict[str, float]:
        return {"failed": float(self._failed)}

    def close(self) -> None:
        """A batch that runs keeps the model until its end."""
        self._open = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    @abstractmethod
    def _rows(self, model: torch.nn.Module, features: dict[str, Any]) -> torch.Tensor:
        """Forward pass and what follows it: rows [inputs, width], on the model's device."""


def _features(batch: Sequence[Tokens], loaded: LoadedEncoder) -> dict[str, Any]:
    """The batch as sentence-transformers' modules hand it on to each other."""
    padded = pad(batch, loaded.padding)
    arrays = {"input_ids": padded.ids, "attention_mask": padded.mask, "token_type_ids": padded.types}
    device = loaded.placement.device
    tensors = {name: torch.from_numpy(array).to(device) for name, array in arrays.items() if name in loaded.inputs}
    return {**loaded.constants, **tensors}
