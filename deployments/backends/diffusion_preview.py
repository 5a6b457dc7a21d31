"""A picture as it stands between two steps: its latents, decoded."""

from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from numpy.typing import NDArray


def has_plain_latents(pipeline: Any) -> bool:
    """Whether `decode_latents` can read them: not in the patches into which some diffusion transformers pack them."""
    plain = isinstance(getattr(pipeline, "vae", None), (AutoencoderKL, AutoencoderTiny))
    return plain and not hasattr(pipeline, "_pack_latents") and "latents" in pipeline._callback_tensor_inputs  # noqa: SLF001 – its documented contract


@torch.inference_mode()
def decode_latents(pipeline: Any, latents: torch.Tensor) -> NDArray[np.uint8]:
    """RGB [height, width, 3] of one picture's latents [1, channels, height, width], as the pipeline decodes them."""
    vae = pipeline.vae
    dtype = vae.dtype
    # As the pipeline itself does at the end: some autoencoders overflow in half precision.
    upcast = dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if upcast:
        vae.to(torch.float32)
    try:
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        scaled = latents.to(vae.dtype) / vae.config.scaling_factor + shift
        image = vae.decode(scaled, return_dict=False)[0]
    finally:
        if upcast:
            vae.to(dtype)
    pixels: NDArray[np.float32] = pipeline.image_processor.postprocess(image, output_type="np")[0]
    return np.rint(pixels * 255).astype(np.uint8)
