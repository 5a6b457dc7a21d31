"""Where a model's replicas run: with which interpreter, and on which of the cluster's CPUs and GPUs."""

from pathlib import Path
from typing import Any

from deployments.backends.registry import lookup
from deployments.backends.vllm_arguments import parallel_sizes
from deployments.config import ModelConfig
from deployments.errors import BackendNotInstalled, ConfigInvalid

PROJECT = Path(__file__).resolve().parents[1]


def actor_options(config: ModelConfig) -> dict[str, Any]:
    """Ray's options of one replica's actor, and those of its placement group where it needs one.

    Keys are parameters of `serve.deployment`. Raises BackendNotInstalled with the command that makes the environment
    of the backend, ConfigInvalid where the GPUs don't add up.
    """
    actor: dict[str, Any] = {"num_cpus": config.num_cpus, "num_gpus": config.num_gpus}
    if runtime_env := _runtime_env(config):
        actor["runtime_env"] = runtime_env
    bundles = gpu_bundles(config)
    if not bundles:
        return {"ray_actor_options": actor}
    actor["num_gpus"] = bundles[0]["GPU"] if len(bundles) == 1 else 0  # else the workers of vLLM take them
    return {
        "ray_actor_options": actor,
        "placement_group_bundles": bundles,
        "placement_group_strategy": "STRICT_PACK" if len(bundles) == 1 else "PACK",
    }


def gpu_bundles(config: ModelConfig) -> list[dict[str, float]]:
    """What Ray sets aside for one replica that is spread over several GPUs; empty: one GPU or a part of it, or none.

    Tensor parallel: one bundle, since the GPUs must be of one node; vLLM starts a process for each of them. With
    pipeline stages: a bundle for each GPU, on as few nodes as hold them; vLLM starts a Ray actor in each.
    """
    sizes = parallel_sizes(config) if lookup(config.backend or "").spreads else None
    if sizes is None or sizes.gpus == 1:
        return []
    if config.num_gpus not in (None, 0, sizes.gpus):
        raise ConfigInvalid(
            f"{config.name}: num_gpus is {config.num_gpus:g}, but tensor_parallel_size × pipeline_parallel_size is "
            f"{sizes.gpus}: leave num_gpus out"
        )
    cpus = {"CPU": float(config.num_cpus or 0)}
    if sizes.pipeline == 1:
        return [{**cpus, "GPU": float(sizes.gpus)}]
    return [{**cpus, "GPU": 1.0}, *({"GPU": 1.0} for _ in range(sizes.gpus - 1))]


def _runtime_env(config: ModelConfig) -> dict[str, Any]:
    """The config's own, with the interpreter of the backend's environment unless it names one."""
    environment = lookup(config.backend or "").environment
    own = config.runtime_env or {}
    if environment is None or own.keys() & {"py_executable", "pip", "uv", "conda", "container", "image_uri"}:
        return own
    python = PROJECT / environment / "bin" / "python"
    if not python.exists():
        raise BackendNotInstalled(
            f'backend "{config.backend}" runs in an environment of its own, {python.parents[1]}, which is not there; '
            f"run: make install-{config.backend}, or for the CPU: make install-{config.backend}-cpu"
        )
    return {**own, "py_executable": str(python)}
