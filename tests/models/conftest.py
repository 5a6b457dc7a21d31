"""Real models, installed once as a user installs them."""

import os
from pathlib import Path

import pytest

from gallery.index import STARTER, find, read
from gallery.install import install

CACHE = Path(os.environ.get("MANTA_TEST_MODELS") or Path(__file__).parents[2] / "models")


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """Weights of SmolLM2-135M-Instruct, 4-bit: a GGUF of 98 MB."""
    entry = find(read(STARTER), "smollm2-135m-instruct")
    install(entry, CACHE)
    return CACHE / entry.files[0].filename
