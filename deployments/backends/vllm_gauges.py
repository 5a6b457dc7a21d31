"""What vLLM's scheduler says of itself, for `stats()`. Imports no vLLM."""

from typing import Any


class Gauges:
    """Holds the last figures. `logger` is what vLLM takes as a factory of stat loggers, and the logger, too."""

    def __init__(self) -> None:
        self._cells = 0.0
        self._used = 0.0

    def logger(self, vllm_config: Any, engine_index: int = 0) -> "Gauges":
        """vLLM calls it when the engine is up, and its cache measured."""
        cache = vllm_config.cache_config
        self._cells = float((cache.num_gpu_blocks or 0) * (cache.block_size or 0))
        return self

    def record(self, scheduler_stats: Any | None, *_: Any, **__: Any) -> None:
        """Called by vLLM after each step."""
        if scheduler_stats is not None:
            self._used = scheduler_stats.kv_cache_usage

    def log(self) -> None:
        """Part of vLLM's interface: what is known is asked for, not logged."""

    log_engine_initialized = log

    def cells(self, *, idle: bool) -> dict[str, float]:
        """Tokens that the KV cache holds, and those of running sequences. vLLM says nothing after its last step."""
        return {"kv_cells": self._cells, "kv_cells_used": 0.0 if idle else round(self._used * self._cells)}
