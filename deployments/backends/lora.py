"""LoRA adapters of a model's config."""

from pathlib import Path

from deployments.config import ModelConfig


def lora_files(config: ModelConfig, models_path: Path) -> list[tuple[Path, float]]:
    """The adapters to apply, each with its scale, 1 where none is given."""
    files = [*([config.lora_adapter] if config.lora_adapter else []), *(config.lora_adapters or [])]
    scales = [*([config.lora_scale] if config.lora_adapter else []), *(config.lora_scales or [])]
    scales += [None] * (len(files) - len(scales))
    return [(models_path / file, 1.0 if scale is None else scale) for file, scale in zip(files, scales, strict=False)]
