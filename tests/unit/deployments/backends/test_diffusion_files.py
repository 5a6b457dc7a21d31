"""Where a diffusion model's files are found, and what is refused before anything is loaded."""

import json
from pathlib import Path

import pytest

from deployments.backends.diffusion_files import INDEX, ModelFiles, find_files
from deployments.config import ModelConfig
from deployments.config_blocks import Diffusers, Parameters
from deployments.errors import ModelLoadFailed


def put(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"_class_name": "FluxPipeline"}) if name.endswith(INDEX) else "")
    return folder


def found(
    models: Path, model: str | None = None, *, allow_pickles: bool = False, original_config_file: str | None = None
) -> ModelFiles:
    config = ModelConfig(
        name="a", parameters=Parameters(model=model), diffusers=Diffusers(original_config_file=original_config_file)
    )
    return find_files(config, models, allow_pickles=allow_pickles)


def test_a_directory_is_named_by_the_config_or_as_the_model(tmp_path: Path) -> None:
    put(tmp_path, f"a/{INDEX}", "a/unet/x.safetensors", f"b/{INDEX}", "b/unet/x.safetensors")
    assert found(tmp_path) == ModelFiles(directory=tmp_path / "a")
    assert found(tmp_path, "b") == ModelFiles(directory=tmp_path / "b")
    assert found(tmp_path, "b").pipeline_class == "FluxPipeline"


def test_a_directory_with_one_checkpoint_describes_it(tmp_path: Path) -> None:
    put(tmp_path, f"a/{INDEX}", "a/unet/config.json", "a/sd.safetensors")
    assert found(tmp_path) == ModelFiles(directory=tmp_path / "a", checkpoint=tmp_path / "a/sd.safetensors")
    put(tmp_path, "a/other.safetensors")
    with pytest.raises(ModelLoadFailed, match="several checkpoints: name one of other"):
        found(tmp_path)
    assert found(tmp_path, "a/other.safetensors").checkpoint == tmp_path / "a/other.safetensors"


def test_parts_go_before_a_checkpoint_beside_them(tmp_path: Path) -> None:
    put(tmp_path, f"a/{INDEX}", "a/unet/x.safetensors", "a/sd.safetensors")
    assert found(tmp_path).checkpoint is None


@pytest.mark.parametrize("place", ["sd", "."])
def test_a_file_is_described_by_the_folder_of_its_name_or_its_own(tmp_path: Path, place: str) -> None:
    put(tmp_path, "sd.safetensors", f"{place}/{INDEX}")
    files = found(tmp_path, "sd.safetensors")
    assert files == ModelFiles(directory=tmp_path / place, checkpoint=tmp_path / "sd.safetensors")


def test_the_config_can_say_what_describes_a_file(tmp_path: Path) -> None:
    put(tmp_path, "sd.safetensors", f"described/{INDEX}", "v1-inference.yaml", f"sd/{INDEX}")
    files = found(tmp_path, "sd.safetensors", original_config_file="described")
    assert files.directory == tmp_path / "described"
    files = found(tmp_path, "sd.safetensors", original_config_file="v1-inference.yaml")
    assert (files.directory, files.original_config) == (None, tmp_path / "v1-inference.yaml")
    assert files.pipeline_class is None
    with pytest.raises(ModelLoadFailed, match="nowhere"):
        found(tmp_path, "sd.safetensors", original_config_file="nowhere")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    put(tmp_path, "sd.safetensors", "empty/readme", f"bare/{INDEX}")
    for model, words in (
        ("nothing", "neither a directory nor a file"),
        ("empty", f"holds no {INDEX}"),
        ("bare", "holds no .safetensors"),
        ("sd.safetensors", "without a description of its parts"),
    ):
        with pytest.raises(ModelLoadFailed, match=words):
            found(tmp_path, model)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pt"])
def test_pickles_are_refused_unless_the_config_allows_them(tmp_path: Path, suffix: str) -> None:
    put(tmp_path, f"sd{suffix}", f"sd/{INDEX}", f"parts/{INDEX}", f"parts/unet/diffusion_pytorch_model{suffix}")
    for model in (f"sd{suffix}", "parts"):
        with pytest.raises(ModelLoadFailed, match="allow_pickles:true"):
            found(tmp_path, model)
    assert found(tmp_path, f"sd{suffix}", allow_pickles=True).checkpoint
    assert found(tmp_path, "parts", allow_pickles=True).directory


def test_half_precision_is_taken_where_there_is_no_other(tmp_path: Path) -> None:
    put(tmp_path, f"a/{INDEX}", "a/unet/x.fp16.safetensors", "a/vae/x.fp16.safetensors")
    assert found(tmp_path).variant == "fp16"
    put(tmp_path, "a/unet/x.safetensors")
    assert found(tmp_path).variant is None


def test_an_index_that_is_not_json_is_named(tmp_path: Path) -> None:
    put(tmp_path, f"a/{INDEX}", "a/unet/x.safetensors")
    (tmp_path / "a" / INDEX).write_text("{")
    with pytest.raises(ModelLoadFailed, match=f"{INDEX} is not JSON"):
        _ = found(tmp_path).pipeline_class
