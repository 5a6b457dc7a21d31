"""Real models, installed once as a user installs them."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gallery.install import install_starter

CACHE = Path(os.environ.get("MANTA_TEST_MODELS") or Path(__file__).parents[2] / "models" / "test")
"""A models directory for each model: the starter installs into an empty one."""
RERANKER = Path(__file__).parents[1] / "fixtures" / "reranker-minilm-distilled"


def installed(name: str) -> Path:
    """The models directory of a model of the starter gallery. In a thread: an async test may ask for it, too."""
    with ThreadPoolExecutor(1) as thread:
        thread.submit(install_starter, CACHE / name, name).result()
    return CACHE / name


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """Weights of SmolLM2-135M-Instruct, 4-bit: a GGUF of 98 MB."""
    return installed("smollm2-135m-instruct") / "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2, a bi-encoder of 384 dimensions: a directory of sentence-transformers, 91 MB."""
    return installed("all-minilm-l6-v2") / "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def reranker_path() -> Path:
    """A cross-encoder of three layers, distilled from all-MiniLM-L6-v2: `tests/fixtures/train_reranker.py`."""
    return RERANKER
