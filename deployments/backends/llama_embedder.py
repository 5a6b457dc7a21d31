"""The `llama-cpp` encoders: embeddings and relevance scores by GGUF models, many inputs in one batch."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from deployments.backends.base import Progress, Tokens
from deployments.backends.encoder_input import InputTemplate, check_ids
from deployments.backends.llama_decoder import ABORTED, bind
from deployments.backends.llama_library import AbortFlag, complaints
from deployments.backends.llama_params import encoder_params, model_params
from deployments.backends.llama_vocab import LlamaModel, LlamaVocab
from deployments.backends.token_batch import TokenBatch
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid, EngineError, ModelLoadFailed

POOLINGS = {
    "mean": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "cls": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "last": llama_cpp.LLAMA_POOLING_TYPE_LAST,
}
"""`parameters.pooling`: how an input's rows become one."""
OWN_POOLING = ("", "backend")
"""`parameters.pooling`: as the GGUF file says."""
RANK = llama_cpp.LLAMA_POOLING_TYPE_RANK
"""The model has a head that scores a pair."""
PROBE = "a"
"""Any text: it shows the special tokens that the vocabulary puts around one."""


class LlamaEncoder(ABC):
    """What embedders and rerankers share of `base.Encoder`: one llama_context."""

    parallel_batches = 1

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> Self:
        """Blocking. Raises ConfigInvalid, and ModelLoadFailed in llama.cpp's own words."""
        model = LlamaModel(models_path / (config.parameters.model or config.name), model_params(config), progress)
        return cls(model, config)

    def __init__(self, model: LlamaModel, config: ModelConfig) -> None:
        self.width = self._width(model)
        self._open_vocab: LlamaVocab | None = LlamaVocab(model)
        self._template = _template(self._open_vocab)
        pooling = self._pooling(model, config)
        params, self.max_length, self.batch_tokens = encoder_params(config, model.trained_context, pooling)
        with complaints() as said:
            self._context = llama_cpp.llama_init_from_model(model.pointer, params)
            if not self._context:
                raise ModelLoadFailed(f"llama.cpp could not make a context: {said() or 'it gave no reason'}")
        self._abort = AbortFlag(self._context)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._run = llama_cpp.llama_decode if self._memory else llama_cpp.llama_encode
        self._batch = TokenBatch(int(params.n_batch))
        self._view, self._arrays = bind(self._batch)
        self._sequences = int(params.n_seq_max)
        self._lock = threading.Lock()

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        with self._lock:
            if self._open_vocab is None:
                raise EngineError("the engine is closed")
            return np.concatenate([self._encode(piece) for piece in self._pieces(batch)])

    def stats(self) -> dict[str, float]:
        return {"failed": 0.0}

    def close(self) -> None:
        self._abort.set()
        with self._lock:
            if self._open_vocab is not None:
                self._open_vocab = None
                llama_cpp.llama_free(self._context)

    @classmethod
    @abstractmethod
    def _pooling(cls, model: LlamaModel, config: ModelConfig) -> int:
        """llama.cpp's pooling type. Raises ConfigInvalid."""

    @abstractmethod
    def _width(self, model: LlamaModel) -> int: ...

    @abstractmethod
    def _finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """From what llama.cpp gives to what clients get."""

    @property
    def _vocab(self) -> LlamaVocab:
        vocab = self._open_vocab
        if vocab is None:
            raise EngineError("the engine is closed")
        return vocab

    def _pieces(self, batch: Sequence[Tokens]) -> Iterator[Sequence[Tokens]]:
        """As many inputs at once as the context takes."""
        start, total = 0, 0
        for place, tokens in enumerate(batch):
            if place - start == self._sequences or total + len(tokens.ids) > self._batch.capacity:
                yield batch[start:place]
                start, total = place, 0
            total += len(tokens.ids)
        yield batch[start:]

    def _encode(self, piece: Sequence[Tokens]) -> NDArray[np.float32]:
        self._batch.clear()
        for sequence, tokens in enumerate(piece):
            self._batch.add(sequence, tokens.ids, 0, output=True)
        self._batch.outputs[: self._batch.size] = 1  # pooling reads all of them
        self._view.n_tokens = self._batch.size
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        with complaints() as said:
            code = self._run(self._context, self._view)
            if code == ABORTED:
                raise EngineError("the engine was closed")
            if code:
                raise EngineError(f"llama.cpp returned {code}: {said() or 'it gave no reason'}")
        rows = [llama_cpp.llama_get_embeddings_seq(self._context, sequence) for sequence in range(len(piece))]
        if not all(rows):
            raise EngineError(f"llama.cpp gave no embeddings: {said() or 'it gave no reason'}")
        return self._finish(np.stack([np.ctypeslib.as_array(row, (self.width,)) for row in rows]))


class LlamaEmbedder(LlamaEncoder):
    """Embeds texts as llama.cpp's server does: pooled and of length 1. Implements `base.Embedder`."""

    cross_encoder = False

    def tokenize(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool) -> list[Tokens]:
        bodies = (self._ids(item, index) for index, item in enumerate(inputs))
        return self._template.singles(bodies, self.max_length, truncate=truncate)

    def _ids(self, item: str | Sequence[int], index: int) -> Sequence[int]:
        vocab = self._vocab
        if isinstance(item, str):
            return vocab.tokenize(item, add_bos=False, special=True)
        check_ids(item, vocab.size, index)
        return item

    @classmethod
    def _pooling(cls, model: LlamaModel, config: ModelConfig) -> int:
        wanted = config.parameters.pooling
        if wanted is not None and wanted not in OWN_POOLING:
            if wanted not in POOLINGS:
                raise ConfigInvalid(f"{config.name}: parameters.pooling is {wanted!r}; known are {', '.join(POOLINGS)}")
            return POOLINGS[wanted]
        own = int(model.metadata(f"{model.metadata('general.architecture')}.pooling_type") or 0)
        if own == RANK:
            raise ConfigInvalid(f"{config.name} is a reranker: set `known_usecases: [rerank]`")
        return own or POOLINGS["mean"]  # a text generator names none

    def _width(self, model: LlamaModel) -> int:
        return int(llama_cpp.llama_model_n_embd_out(model.pointer))

    def _finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.asarray(rows / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


class LlamaReranker(LlamaEncoder):
    """Scores pairs by a model with a ranking head; the logit becomes a probability. Implements `base.Reranker`."""

    cross_encoder = True

    def __init__(self, model: LlamaModel, config: ModelConfig) -> None:
        if llama_cpp.llama_model_chat_template(model.pointer, b"rerank"):
            raise ModelLoadFailed(f"{config.name} wants its pairs in a template of its own, which is not supported")
        super().__init__(model, config)
        self._pair = _pair_template(self._vocab, self._template)

    def tokenize_pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[Tokens]:
        vocab = self._vocab
        first, *seconds = (vocab.tokenize(text, add_bos=False, special=False) for text in (query, *documents))
        return self._pair.pairs(first, seconds, self.max_length, truncate=truncate)

    @classmethod
    def _pooling(cls, model: LlamaModel, config: ModelConfig) -> int:
        if model.metadata(f"{model.metadata('general.architecture')}.pooling_type") != str(RANK):
            raise ConfigInvalid(f"{config.name} has no head that ranks: it embeds (set `known_usecases: [embeddings]`)")
        return int(RANK)

    def _width(self, model: LlamaModel) -> int:
        if (outputs := int(llama_cpp.llama_model_n_cls_out(model.pointer))) != 1:
            raise ModelLoadFailed(f"the model has {outputs} labels; a reranker has one, the relevance")
        return 1

    def _finish(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(np.exp(-np.logaddexp(0, -rows)), np.float32)


def _template(vocab: LlamaVocab) -> InputTemplate:
    """The special tokens around one text."""
    bare = vocab.tokenize(PROBE, add_bos=False, special=False)
    whole = vocab.tokenize(PROBE, add_bos=True, special=False)
    before = next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), None)
    if not bare or before is None:
        raise ModelLoadFailed(f"the model's vocabulary gives no token for {PROBE!r}")
    return InputTemplate(tuple(whole[:before]), tuple(whole[before + len(bare) :]))


def _pair_template(vocab: LlamaVocab, single: InputTemplate) -> InputTemplate:
    """The special tokens of a pair, as llama.cpp's server puts them (`format_prompt_rerank`)."""
    pointer = vocab.pointer
    end = [llama_cpp.llama_vocab_eos(pointer)] if llama_cpp.llama_vocab_get_add_eos(pointer) else []
    separator = [llama_cpp.llama_vocab_sep(pointer)] if llama_cpp.llama_vocab_get_add_sep(pointer) else []
    return InputTemplate(single.before, single.after, (*end, *separator))
