"""The `vllm` encoders: embeddings and relevance scores by pooling models."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from deployments.backends.base import Progress, Tokens
from deployments.backends.encoder_tokenizer import EncoderTokenizer
from deployments.backends.model_directory import find_directory, is_cross_encoder
from deployments.backends.vllm_config import load_failures, vllm_config
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid, EngineError, ModelLoadFailed

if TYPE_CHECKING:
    from vllm.v1.engine.llm_engine import LLMEngine

POOLINGS = {"mean": "MEAN", "cls": "CLS", "last": "LAST"}
"""`parameters.pooling` → vLLM's name, instead of what the model's files say."""
OWN_POOLING = (None, "", "backend")
GPU_BATCH_TOKENS = 16_384
CPU_BATCH_TOKENS = 512
"""As for encoders on torch: `torch_device`."""


class VllmEncoder:
    """What embedders and rerankers share of `base.Encoder`. vLLM's scheduler runs in this process, step by step."""

    task: ClassVar[Literal["embed", "classify"]]
    parallel_batches = 1

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> Self:
        """Blocking. Raises ConfigInvalid, and ModelLoadFailed in vLLM's own words."""
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        made = vllm_config(config, models_path, runner="pooling", **_pooler(config))
        progress(0.1)
        from vllm.v1.engine.llm_engine import LLMEngine

        with load_failures(config):
            engine = LLMEngine.from_vllm_config(made)
        if cls.task not in engine.get_supported_tasks():
            raise ModelLoadFailed(f"{config.name}: vLLM can't {cls.task} with {config.parameters.model}")
        batch = config.parameters.batch or (GPU_BATCH_TOKENS if config.num_gpus else CPU_BATCH_TOKENS)
        encoder = cls(engine, batch)
        progress(1.0)
        return encoder

    def __init__(self, engine: "LLMEngine", batch_tokens: int) -> None:
        tokenizer: Any = engine.get_tokenizer()
        if not getattr(tokenizer, "is_fast", False):
            raise ModelLoadFailed(f"{type(tokenizer).__name__} is no fast tokenizer (tokenizer.json)")
        self.max_length: int = engine.model_config.max_model_len
        self.batch_tokens = batch_tokens
        self._tokenizer = EncoderTokenizer(tokenizer.backend_tokenizer, self.max_length)
        self._open: LLMEngine | None = engine
        self._one_at_a_time = threading.Lock()
        self._failed = False
        self.width: int = self.encode([Tokens([self._tokenizer.any_id])]).shape[1]

    def encode(self, batch: Sequence[Tokens]) -> NDArray[np.float32]:
        with self._one_at_a_time:
            if self._open is None:
                raise EngineError("the engine is closed")
            try:
                return self._encode(self._open, batch)
            except Exception as error:
                self._failed = True  # what it was at is still in its scheduler
                raise EngineError(f"vLLM failed: {error}") from error

    def _encode(self, engine: "LLMEngine", batch: Sequence[Tokens]) -> NDArray[np.float32]:
        from vllm import PoolingParams

        for row, tokens in enumerate(batch):
            params = PoolingParams(task=self.task, extra_kwargs=self._token_types(tokens))
            engine.add_request(str(row), {"type": "token", "prompt_token_ids": tokens.ids}, params)
        rows: dict[int, NDArray[np.float32]] = {}
        while engine.has_unfinished_requests():
            for output in engine.step():
                rows[int(output.request_id)] = output.outputs.data.float().cpu().numpy()
        return np.stack([rows[row] for row in range(len(batch))])

    def _token_types(self, tokens: Tokens) -> dict[str, int] | None:
        """Where the second text of a pair begins, for models that tell the two apart."""
        tells_apart = tokens.second and self._tokenizer.second_type
        return {"compressed_token_type_ids": tokens.second} if tells_apart else None

    def stats(self) -> dict[str, float]:
        return {"failed": float(self._failed)}

    def close(self) -> None:
        with self._one_at_a_time:
            engine, self._open = self._open, None
            if engine is not None:
                engine.engine_core.shutdown()


class VllmEmbedder(VllmEncoder):
    """Embeds texts. Implements `base.Embedder`."""

    task = "embed"
    cross_encoder = False
    """As a reranker: by the cosine of query and document."""

    def tokenize(self, inputs: Sequence[str | Sequence[int]], *, truncate: bool) -> list[Tokens]:
        return self._tokenizer.tokenize(inputs, truncate=truncate)


class VllmReranker(VllmEncoder):
    """Scores pairs by a cross-encoder. Implements `base.Reranker`."""

    task = "classify"
    cross_encoder = True

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "VllmReranker | VllmEmbedder":  # type: ignore[override]
        """A bi-encoder is loaded as VllmEmbedder. Raises as `VllmEncoder.load`."""
        if not is_cross_encoder(find_directory(config, models_path)):
            return VllmEmbedder.load(config, models_path, progress)
        return super().load(config, models_path, progress)

    def tokenize_pairs(self, query: str, documents: Sequence[str], *, truncate: bool) -> list[Tokens]:
        return self._tokenizer.tokenize_pairs(query, documents, truncate=truncate)


def _pooler(config: ModelConfig) -> dict[str, Any]:
    wanted = config.parameters.pooling
    if wanted in OWN_POOLING:
        return {}
    if wanted not in POOLINGS:
        raise ConfigInvalid(f"{config.name}: parameters.pooling is {wanted!r}; known are {', '.join(POOLINGS)}")
    from vllm.config import PoolerConfig

    return {"pooler_config": PoolerConfig(seq_pooling_type=POOLINGS[wanted])}
