"""Finding a model's directory, and what its config says."""

import json
from pathlib import Path

import pytest

from deployments.backends.model_directory import find_directory, is_cross_encoder
from deployments.config import ModelConfig
from deployments.config_blocks import Parameters
from deployments.errors import ModelLoadFailed


def config(model: str | None = None) -> ModelConfig:
    return ModelConfig(name="minilm", parameters=Parameters(model=model))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "org" / "minilm"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (directory / "model.safetensors").touch()
    return directory


@pytest.mark.parametrize("named", ["org/minilm", "org/minilm/model.safetensors"])
def test_a_folder_or_a_file_in_it(directory: Path, tmp_path: Path, named: str) -> None:
    assert find_directory(config(named), tmp_path) == directory


def test_without_a_model_the_name_is_taken(directory: Path) -> None:
    assert find_directory(config(), directory.parent) == directory


def test_what_is_missing_is_named(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelLoadFailed, match=r"minilm: there is no model directory .*/other; nothing is downloaded"):
        find_directory(config("other"), tmp_path)
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelLoadFailed, match=r"no \*\.safetensors file; pickled weights"):
        find_directory(config("org/minilm"), tmp_path)
    (directory / "config.json").unlink()
    with pytest.raises(ModelLoadFailed, match=r"holds no config\.json"):
        find_directory(config("org/minilm"), tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"architectures": ["XLMRobertaForSequenceClassification"]}', True),
        ('{"architectures": ["BertModel"]}', False),
        ('{"architectures": null}', False),
        ("[]", False),
        ("{", False),
    ],
)
def test_a_sequence_classifier_is_a_cross_encoder(directory: Path, text: str, expected: bool) -> None:
    (directory / "config.json").write_text(text)
    assert is_cross_encoder(directory) is expected


def test_no_config_no_cross_encoder(tmp_path: Path) -> None:
    assert not is_cross_encoder(tmp_path)
