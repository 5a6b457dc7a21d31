"""llama.cpp's decoder: one context whose unified KV cache all slots share."""

import ctypes
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from deployments.backends.llama_batching import CellsExhausted, DecodeFailed
from deployments.backends.llama_library import AbortFlag, complaints, without_release
from deployments.backends.llama_vocab import LlamaModel
from deployments.backends.prefix_archive import State
from deployments.backends.token_batch import TokenBatch
from deployments.errors import ModelLoadFailed

NO_CELLS = 1
"""llama_decode: no KV slot for the batch, the memory is as before."""
ABORTED = 2

_logits_ith = without_release(llama_cpp.llama_get_logits_ith)


class LlamaDecoder:
    """One llama_context. Only the engine's thread calls it, but for `abort`."""

    def __init__(self, model: LlamaModel, params: llama_cpp.llama_context_params) -> None:
        self._model = model
        with complaints() as said:
            self.context = llama_cpp.llama_init_from_model(model.pointer, params)
            if not self.context:
                raise ModelLoadFailed(f"llama.cpp could not make a context: {said() or 'it gave no reason'}")
        self._memory = llama_cpp.llama_get_memory(self.context)
        self.cells = int(llama_cpp.llama_n_ctx(self.context))
        self.reuses_prefixes = model.reuses_prefixes
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model.pointer))
        self.batch = TokenBatch(int(params.n_batch))
        self._batch, self._arrays = bind(self.batch)
        self._abort = AbortFlag(self.context)

    def apply_adapters(self, files: list[tuple[Path, float]]) -> None:
        """LoRA adapters: (file, scale). They are freed with the model."""
        if not files:
            return
        with complaints() as said:
            loaded = [llama_cpp.llama_adapter_lora_init(self._model.pointer, str(file).encode()) for file, _ in files]
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * len(files))(*loaded)
            scales = (ctypes.c_float * len(files))(*[scale for _, scale in files])
            if not all(loaded) or llama_cpp.llama_set_adapters_lora(self.context, adapters, len(files), scales):
                raise ModelLoadFailed(f"llama.cpp could not apply the LoRA adapters: {said() or 'it gave no reason'}")

    def decode(self) -> None:
        self._batch.n_tokens = self.batch.size
        with complaints() as said:
            code = llama_cpp.llama_decode(self.context, self._batch)
            if code == 0:
                return
            if code == NO_CELLS:
                raise CellsExhausted
            if code == ABORTED:
                raise DecodeFailed("the engine was closed")
            raise DecodeFailed(f"llama_decode returned {code}: {said() or 'it gave no reason'}")

    def logits(self, row: int) -> NDArray[np.float32]:
        """The logits at a batch row, shape [vocabulary]: llama.cpp's own memory, valid until the next step."""
        return np.ctypeslib.as_array(_logits_ith(self.context, row), (self.vocab_size,))

    def trim(self, sequence: int, length: int) -> bool:
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1))

    def copy(self, source: int, target: int, length: int) -> None:
        if length:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def save(self, sequence: int) -> State:
        state = np.empty(llama_cpp.llama_state_seq_get_size(self.context, sequence), np.uint8)
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return state[: llama_cpp.llama_state_seq_get_data(self.context, pointer, state.nbytes, sequence)]

    def load(self, sequence: int, state: State) -> bool:
        pointer = state.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return bool(llama_cpp.llama_state_seq_set_data(self.context, pointer, state.nbytes, sequence))

    def abort(self) -> None:
        """Make a decode that runs in another thread end soon, and all later ones at once."""
        self._abort.set()

    def close(self) -> None:
        """Free the context and let go of the model."""
        llama_cpp.llama_free(self.context)
        del self._model


def bind(batch: TokenBatch) -> tuple[llama_cpp.llama_batch, list[NDArray[Any]]]:
    """llama.cpp's view of `batch`, each token in one sequence; and arrays that must live as long as it."""
    int32s = ctypes.POINTER(ctypes.c_int32)
    counts = np.ones(batch.capacity, np.int32)
    sequences = batch.sequences.ctypes.data + np.arange(batch.capacity, dtype=np.uintp) * batch.sequences.itemsize
    view = llama_cpp.llama_batch(
        token=batch.tokens.ctypes.data_as(int32s),
        pos=batch.positions.ctypes.data_as(int32s),
        n_seq_id=counts.ctypes.data_as(int32s),
        seq_id=sequences.ctypes.data_as(ctypes.POINTER(int32s)),
        logits=batch.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
    )
    return view, [counts, sequences]
