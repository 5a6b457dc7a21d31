"""Samples at other rates: the same sound, the same duration."""

import numpy as np
import pytest

from deployments.errors import InvalidRequest
from deployments.resampling import BLOCK, resample


def tone(hz: float, rate: int, seconds: float) -> np.ndarray:
    return np.sin(2 * np.pi * hz * np.arange(round(seconds * rate)) / rate).astype(np.float32)


def test_at_the_same_rate_nothing_is_done() -> None:
    samples = tone(440, 16_000, 0.1)
    assert resample(samples, 16_000, 16_000) is samples


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_a_tone_stays_that_tone(rate: int) -> None:
    samples = resample(tone(440, rate, 1), rate, 16_000)
    assert samples.dtype == np.float32
    assert abs(samples.size - 16_000) <= 1
    inner = slice(500, 15_500)  # a filter needs what is before and after
    assert np.abs(samples[inner] - tone(440, 16_000, 1)[inner]).max() < 0.01


def test_a_long_recording_has_no_seams() -> None:
    seconds = 2.5 * BLOCK / 48_000
    samples = resample(tone(440, 48_000, seconds), 48_000, 16_000)
    expected = tone(440, 16_000, seconds)
    assert abs(samples.size - expected.size) <= 1
    assert np.abs(samples[500:-500] - expected[500 : samples.size - 500]).max() < 0.01


@pytest.mark.parametrize(("samples", "rate"), [(0, 8_000), (1, 768_000)])
def test_next_to_nothing_becomes_nothing(samples: int, rate: int) -> None:
    assert resample(np.zeros(samples, np.float32), rate, 16_000).size == 0


@pytest.mark.parametrize("rate", [-1, 0, 999, 10**9])
def test_a_rate_that_no_recording_has_is_refused(rate: int) -> None:
    with pytest.raises(InvalidRequest, match=f"not {rate}"):
        resample(tone(440, 16_000, 0.1), rate, 16_000)
