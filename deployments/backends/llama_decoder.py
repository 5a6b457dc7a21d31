"""llama.cpp's decoder: one context whose unified KV cache all slots share."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from deployments.backends.llama_batching import CellsExhausted, DecodeFailed
from deployments.backends.llama_library import AbortFlag, cache_bytes, complaints, without_release
from deployments.backends.llama_vocab import LlamaModel
from deployments.backends.media_span import PLANES, MediaSpan
from deployments.backends.mrope import SequencePositions
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
        with complaints() as said, cache_bytes() as set_aside:
            self.context = llama_cpp.llama_init_from_model(model.pointer, params)
            if not self.context:
                raise ModelLoadFailed(f"llama.cpp could not make a context: {said() or 'it gave no reason'}")
            self.cache_bytes = set_aside()
        self._memory = llama_cpp.llama_get_memory(self.context)
        self.cells = int(llama_cpp.llama_n_ctx(self.context))
        self.reuses_prefixes = model.reuses_prefixes
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model.pointer))
        self.batch = TokenBatch(int(params.n_batch))
        self._batch, self._arrays = bind(self.batch)
        self._positions = SequencePositions(int(params.n_seq_max))
        self._planes = np.zeros(PLANES * self.batch.capacity, np.int32)
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
        if self.batch.span is None:
            self._decode_tokens()
        else:
            self._decode_rows(self.batch.span)

    def _decode_tokens(self) -> None:
        size = self.batch.size
        self.batch.positions[:size] -= self._positions.lags[self.batch.sequences[:size]]
        self._batch.n_tokens = size
        self._run(self._batch)

    def _decode_rows(self, span: MediaSpan) -> None:
        """The batch's rows of `span`, in a view of the batch that has embeddings instead of tokens."""
        size, sequence = self.batch.size, int(self.batch.sequences[0])
        first = int(self.batch.positions[0]) - span.start
        rows = span.rows[first : first + size]
        view = llama_cpp.llama_batch.from_buffer_copy(self._batch)
        view.n_tokens = size
        view.token = None  # type: ignore[assignment]
        view.embd = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))  # type: ignore[assignment]
        if span.planes is not None:
            self._planes[: PLANES * size] = span.planes[:, first : first + size].reshape(-1)
            view.pos = self._planes.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))  # type: ignore[assignment]
        with nullcontext() if span.causal else self._without_causal_mask():
            self._run(view)
        if span.planes is not None and first + size == len(span.rows):
            self._positions.jump(sequence, span.stop, span.next_position)

    @contextmanager
    def _without_causal_mask(self) -> Iterator[None]:
        """Rows of a batch attend to each other in both directions."""
        llama_cpp.llama_set_causal_attn(self.context, False)
        try:
            yield
        finally:
            llama_cpp.llama_set_causal_attn(self.context, True)

    def _run(self, batch: llama_cpp.llama_batch) -> None:
        with complaints() as said:
            code = llama_cpp.llama_decode(self.context, batch)
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
        position = self._positions.of(sequence, length)
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, position, -1):
            return False
        self._positions.trim(sequence, length)
        return True

    def copy(self, source: int, target: int, length: int) -> None:
        if length:
            position = self._positions.of(source, length)
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, position)
            self._positions.copy(source, target, length)

    def save(self, sequence: int) -> State:
        data = np.empty(llama_cpp.llama_state_seq_get_size(self.context, sequence), np.uint8)
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        size = llama_cpp.llama_state_seq_get_data(self.context, pointer, data.nbytes, sequence)
        return State(data[:size], self._positions.get(sequence))

    def load(self, sequence: int, state: State) -> bool:
        pointer = state.data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        if not llama_cpp.llama_state_seq_set_data(self.context, pointer, state.nbytes, sequence):
            return False
        self._positions.put(sequence, state.jumps)
        return True

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
