"""The models that tests/models installs, for the checks by hand."""

from tests.models.conftest import minilm_path, reranker_path, smollm2_path, smollm2_safetensors_path

__all__ = ["minilm_path", "reranker_path", "smollm2_path", "smollm2_safetensors_path"]
