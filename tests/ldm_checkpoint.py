"""A Stable Diffusion pipeline as one file with the names of its authors' code: the checkpoints that people share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
VAE_ATTENTION = {
    "group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out",
}  # fmt: skip

Named = Iterator[tuple[str, torch.Tensor]]


def save_checkpoint(pipeline: Any, file: Path) -> None:
    """All parts of a Stable Diffusion 1 pipeline in one safetensors file."""
    named = {
        **{f"model.diffusion_model.{name}": tensor for name, tensor in _unet(pipeline.unet)},
        **{f"first_stage_model.{name}": tensor for name, tensor in _vae(pipeline.vae)},
        **{
            f"cond_stage_model.transformer.text_model.{name}": tensor
            for name, tensor in pipeline.text_encoder.state_dict().items()
        },
    }
    save_file({name: tensor.contiguous().clone() for name, tensor in named.items()}, file)


def _unet(unet: Any) -> Named:
    """Blocks are counted through all resolutions; a sampling layer is a block of its own, or the last part of one."""
    layers = unet.config.layers_per_block + 1
    for name, tensor in unet.state_dict().items():
        part, *rest = name.split(".")
        if part in ("down_blocks", "up_blocks"):
            block, kind, layer, *inside = rest
            side = "input_blocks" if part == "down_blocks" else "output_blocks"
            number = int(block) * layers + int(layer) + (part == "down_blocks")
            if kind == "resnets":
                yield f"{side}.{number}.0.{_renamed('.'.join(inside), RESNET)}", tensor
            elif kind == "attentions":
                yield f"{side}.{number}.1.{'.'.join(inside)}", tensor
            elif kind == "downsamplers":
                yield f"{side}.{(int(block) + 1) * layers}.0.op.{inside[-1]}", tensor
            else:
                place = 2 if unet.up_blocks[int(block)].__class__.__name__.startswith("CrossAttn") else 1
                yield f"{side}.{(int(block) + 1) * layers - 1}.{place}.conv.{inside[-1]}", tensor
        elif part == "mid_block":
            kind, layer, *inside = rest
            number = 1 if kind == "attentions" else 2 * int(layer)
            names = {} if kind == "attentions" else RESNET
            yield f"middle_block.{number}.{_renamed('.'.join(inside), names)}", tensor
        else:
            yield _renamed(name, UNET), tensor


def _vae(vae: Any) -> Named:
    """The decoder's resolutions are counted from the smallest here and from the largest there."""
    resolutions = len(vae.config.block_out_channels)
    for name, tensor in vae.state_dict().items():
        half, part, *rest = [*name.split("."), ""]
        inside = ".".join(rest).rstrip(".")
        if part in ("down_blocks", "up_blocks"):
            block, kind, layer, *last = inside.split(".")
            there, number = ("down", int(block)) if part == "down_blocks" else ("up", resolutions - 1 - int(block))
            if kind == "resnets":
                yield f"{half}.{there}.{number}.block.{layer}.{_renamed('.'.join(last), _SHORTCUT)}", tensor
            else:
                yield f"{half}.{there}.{number}.{there}sample.{'.'.join(last)}", tensor
        elif part == "mid_block":
            kind, layer, *last = inside.split(".")
            if kind == "resnets":
                yield f"{half}.mid.block_{int(layer) + 1}.{_renamed('.'.join(last), _SHORTCUT)}", tensor
            else:
                convolved = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
                yield f"{half}.mid.attn_1.{_renamed('.'.join(last), VAE_ATTENTION)}", convolved
        else:
            yield name.replace("conv_norm_out", "norm_out"), tensor


_SHORTCUT = {"conv_shortcut": "nin_shortcut"}


def _renamed(name: str, names: dict[str, str]) -> str:
    stem, _, kind = name.rpartition(".")
    return f"{names.get(stem, stem)}.{kind}"
