"""Samples at one rate → samples at another, by FFmpeg's resampler."""

from typing import TYPE_CHECKING

import numpy as np

from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

RATES = range(1_000, 768_001)
"""Hz that a recording may have."""
BLOCK = 1 << 20
"""Samples given to FFmpeg at once."""


def resample(samples: "NDArray[np.float32]", rate: int, to: int) -> "NDArray[np.float32]":
    """Mono samples at `to` Hz, of the same duration. Raises InvalidRequest for a rate that no recording has."""
    if rate not in RATES:
        raise InvalidRequest(f"sample_rate must be from {RATES[0]} to {RATES[-1]} Hz, not {rate}").at("sample_rate")
    if rate == to or not samples.size:
        return samples
    import av  # a model whose samples come at its own rate does without it

    resampler = av.AudioResampler("flt", "mono", to)
    blocks: list[NDArray[np.float32]] = [np.zeros(0, np.float32)]  # less than a sample's time makes none
    for start in range(0, samples.size, BLOCK):
        block = np.ascontiguousarray(samples[None, start : start + BLOCK], np.float32)
        frame = av.AudioFrame.from_ndarray(block, format="flt", layout="mono")
        frame.sample_rate, frame.pts = rate, start
        blocks += (out.to_ndarray()[0] for out in resampler.resample(frame))
    blocks += (out.to_ndarray()[0] for out in resampler.resample(None))
    return np.concatenate(blocks)
