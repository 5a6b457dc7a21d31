"""Where a torch model runs, in which precision, and how much it takes at once."""

import ctypes
from dataclasses import dataclass
from typing import Literal

import torch

from deployments.config import ModelConfig, default_threads
from deployments.errors import ConfigInvalid, ModelLoadFailed

DTYPES: dict[str, torch.dtype | Literal["auto"]] = {
    "auto": "auto",
    "float32": torch.float32,
    "float": torch.float32,
    "fp32": torch.float32,
    "float16": torch.float16,
    "half": torch.float16,
    "fp16": torch.float16,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
}
"""`dtype` in a model's config → torch's. `auto`: as the weights are stored."""

CPU_BATCH_TOKENS = 512
"""Per thread. MiniLM-L6 on one AVX-512 core at 64, 256, 512, 1024 and 4096 tokens a batch, in thousands of tokens/s:
3.9, 5.1, 5.2, 5.2, 5.4 for inputs of 8 tokens; 3.6, 5.2, 5.4, 5.4, 5.1 for 64; -, 4.9, 5.2, 5.3, 4.9 for 256. Flat from
512 on, and who comes meanwhile waits for the batch to end."""
CPU_MOST_BATCH_TOKENS = 4096
GPU_BATCH_TOKENS = 16_384
"""Enough rows to fill a large GPU, few enough for an 8 GB one with a base-size model. Reckoned, not measured."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's malloc.h."""
FREED_KEPT = 2**30
"""Bytes."""


@dataclass(frozen=True, slots=True)
class Placement:
    """What `place` decided."""

    device: torch.device
    dtype: torch.dtype | Literal["auto"]
    batch_tokens: int
    parallel_batches: int
    """See `base.Encoder`."""


def place(config: ModelConfig) -> Placement:
    """Read the config, and set torch's threads, which are the whole process's.

    Raises ConfigInvalid for an unknown dtype, ModelLoadFailed where GPUs are asked for and torch sees none.
    """
    wanted = config.dtype.lower() if config.dtype else None
    if wanted is not None and wanted not in DTYPES:
        raise ConfigInvalid(f"{config.name}: dtype is {config.dtype!r}; known are {', '.join(DTYPES)}")
    if not config.num_gpus:
        threads = config.threads or default_threads()
        torch.set_num_threads(threads)
        _keep_freed_memory()
        batch_tokens = config.parameters.batch or min(CPU_BATCH_TOKENS * threads, CPU_MOST_BATCH_TOKENS)
        # Half precision is stored to save space; most CPUs compute in it slower.
        return Placement(torch.device("cpu"), DTYPES[wanted or "float32"], batch_tokens, parallel_batches=1)
    if not torch.cuda.is_available():
        raise ModelLoadFailed(
            f"{config.name}: num_gpus is {config.num_gpus:g}, but torch {torch.__version__} sees no GPU: "
            "install its CUDA build, or set num_gpus to 0"
        )
    dtype = DTYPES[wanted or ("float16" if config.f16 else "auto")]
    return Placement(torch.device("cuda"), dtype, config.parameters.batch or GPU_BATCH_TOKENS, parallel_batches=2)


def _keep_freed_memory() -> None:
    """Let malloc keep what a layer has freed for the next one, instead of giving it back to the kernel.

    Activations are megabytes, which glibc maps and unmaps: their page faults cost 6 % of a batch of MiniLM. Other C
    libraries have no `mallopt`.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, FREED_KEPT)
        mallopt(M_TRIM_THRESHOLD, FREED_KEPT)
