"""vLLM's configuration of a model, in a process that is made ready for it."""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from deployments.backends.vllm_arguments import engine_arguments, environment
from deployments.backends.vllm_plugin import REPLICA
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid, ModelLoadFailed

if TYPE_CHECKING:
    from vllm.config import VllmConfig


def vllm_config(config: ModelConfig, models_path: Path, **further: object) -> "VllmConfig":
    """`further`: arguments that follow from what the model is used for. The first to import vLLM: it reads variables
    when it is imported, which are set here. Raises ConfigInvalid in vLLM's own words, and ModelLoadFailed.
    """
    os.environ.update({**environment(config), **os.environ, REPLICA: str(os.getpid())})
    from vllm.engine.arg_utils import AsyncEngineArgs

    arguments = engine_arguments(config, models_path, {field.name for field in fields(AsyncEngineArgs)})
    try:
        made: VllmConfig = AsyncEngineArgs(**(arguments | further)).create_engine_config()
    except (ValueError, TypeError, NotImplementedError) as error:
        raise ConfigInvalid(f"{config.name}: vLLM refuses its arguments: {error}") from error
    if config.kv_cells:
        made.cache_config.num_gpu_blocks_override = math.ceil(config.kv_cells / made.cache_config.block_size)
    return made


@contextmanager
def load_failures(config: ModelConfig) -> Iterator[None]:
    """Whatever keeps vLLM's engine from starting, as ModelLoadFailed."""
    try:
        yield
    except Exception as error:
        raise ModelLoadFailed(f"{config.name}: vLLM could not load {config.parameters.model}: {error}") from error
