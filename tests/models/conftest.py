"""Real models, installed once as a user installs them."""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gallery.install import install_starter
from tests.serving import Server, eventually

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
def smollm2(server: Server, smollm2_path: Path) -> str:
    """SmolLM2 on the shared server, under this name."""
    name = "smollm2-135m-instruct"
    (server.models_path / smollm2_path.name).symlink_to(smollm2_path)
    (server.models_path / f"{name}.yaml").write_text((smollm2_path.parent / f"{name}.yaml").read_text())
    with server.client() as client:
        client.post("/models/reload")
        eventually(lambda: name in client.get("/v1/models").text)
    return name


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """all-MiniLM-L6-v2, a bi-encoder of 384 dimensions: a directory of sentence-transformers, 91 MB."""
    return installed("all-minilm-l6-v2") / "all-MiniLM-L6-v2"


@pytest.fixture(scope="session")
def reranker_path() -> Path:
    """A cross-encoder of three layers, distilled from all-MiniLM-L6-v2: `tests/fixtures/train_reranker.py`."""
    return RERANKER


@pytest.fixture(scope="session")
def smollm2_safetensors_path(smollm2_path: Path) -> Path:
    """SmolLM2-135M-Instruct in Hugging Face's layout, 270 MB: made from the GGUF once."""
    pytest.importorskip("transformers")
    from tests.fixtures.gguf2hf import convert

    directory = CACHE / "smollm2-135m-instruct-safetensors" / "SmolLM2-135M-Instruct"
    if not (directory / "model.safetensors").is_file():
        unfinished = directory.with_name(f".{os.getpid()}")
        convert(smollm2_path, unfinished)
        shutil.rmtree(directory, ignore_errors=True)
        unfinished.rename(directory)
    return directory


@pytest.fixture
def same_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama-cpp-python keeps away from the kernels that our engine keeps away from: both compute the same."""
    import llama_cpp

    from deployments.backends.llama_library import has_broken_tiles

    default_params = llama_cpp.llama_cpp.llama_model_default_params

    def params() -> llama_cpp.llama_model_params:
        params = default_params()
        params.use_extra_bufts = not has_broken_tiles()
        return params

    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_default_params", params)
