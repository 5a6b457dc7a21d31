"""Every format, whole and streamed, decoded again by FFmpeg."""

import io
import struct
import wave

import av
import numpy as np
import pytest

from deployments.audio_encoding import CODECS, UNKNOWN_SIZE, AudioEncoder, encode_whole, open_encoder
from deployments.audio_formats import FORMATS
from deployments.errors import InvalidRequest

HZ = 440
MAGIC = {"wav": b"RIFF", "mp3": b"ID3", "opus": b"OggS", "aac": b"\xff\xf1", "flac": b"fLaC"}
DECODED_RATE = {"opus": 48_000, "aac": 44_100}
"""Of 22,050 Hz; the others keep it."""
LATE = {"mp3": 0.1}
"""Seconds that a streamed file may be too long, where its head can't name the encoder's delay; 0.05 else."""


def tone(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    times = np.arange(round(seconds * rate)) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * HZ * (1 + c) * times) for c in range(channels)]).astype(np.float32)


def streamed(samples: np.ndarray, rate: int, name: str, blocks: int = 5) -> list[bytes]:
    encoder = open_encoder(name, rate, len(samples))
    parts = [encoder.encode(block) for block in np.array_split(samples, blocks, axis=1)]
    return [*parts, encoder.finish()]


def decoded(data: bytes) -> tuple[np.ndarray, int]:
    """Samples [channels, n] and their rate."""
    with av.open(io.BytesIO(data)) as container:
        layout = container.streams.audio[0].layout.name
        resampler = av.AudioResampler("fltp", layout, container.streams.audio[0].rate)
        frames = [out.to_ndarray() for frame in container.decode(audio=0) for out in resampler.resample(frame)]
        return np.concatenate(frames, axis=1), container.streams.audio[0].rate


def pitch(samples: np.ndarray, rate: int) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * rate / len(samples))


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
def test_ffmpeg_reads_it_back(name: str, whole: bool) -> None:
    samples = tone(3.3, 22_050)
    data = encode_whole(samples[0], 22_050, name) if whole else b"".join(streamed(samples, 22_050, name))
    assert data.startswith(MAGIC[name])
    back, rate = decoded(data)
    assert rate == DECODED_RATE.get(name, 22_050)
    assert abs(back.shape[1] / rate - 3.3) < (0.05 if whole else LATE.get(name, 0.05))
    assert pitch(back[0], rate) == pytest.approx(HZ, abs=1)
    assert np.abs(back[0][rate : 2 * rate]).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("rate", [7_000, 16_000, 24_000, 32_000, 96_000])
def test_any_rate_is_encoded_at_one_that_the_format_has(name: str, rate: int) -> None:
    back, out = decoded(encode_whole(tone(1, rate), rate, name))
    assert out == rate or out in CODECS[name].rates or name == "opus"
    assert abs(back.shape[1] / out - 1) < 0.05
    assert pitch(back[0], out) == pytest.approx(HZ, abs=2)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "pcm"])
def test_two_channels_stay_apart(name: str) -> None:
    back, rate = decoded(encode_whole(tone(1, 32_000, channels=2), 32_000, name))
    assert [pitch(channel, rate) for channel in back] == pytest.approx([HZ, 2 * HZ], abs=2)


@pytest.mark.parametrize("name", FORMATS)
def test_a_stream_sends_each_block_and_a_whole_file_waits_for_its_end(name: str) -> None:
    *blocks, _ = streamed(tone(5, 22_050), 22_050, name)
    assert all(blocks)
    if name in CODECS:  # within a second of what was encoded
        heard = b"".join(blocks[:2])
        assert decoded(heard)[0].size / (DECODED_RATE.get(name, 22_050)) > 1
    encoder = open_encoder(name, 22_050, whole=True)
    assert encoder.encode(tone(5, 22_050)) == b""
    assert encoder.finish()


def test_wav_and_pcm_hold_the_samples_exactly() -> None:
    samples = np.array([0, 0.5, -0.5, 1, -1, 2, -2], np.float32)
    expected = np.array([0, 16384, -16384, 32767, -32767, 32767, -32767], "<i2")
    assert encode_whole(samples, 8000, "pcm") == expected.tobytes()
    with wave.open(io.BytesIO(encode_whole(samples, 8000, "wav"))) as file:
        assert file.getparams()[:4] == (1, 2, 8000, 7)
        assert file.readframes(7) == expected.tobytes()


def test_flac_holds_the_samples_exactly() -> None:
    samples = tone(1, 16_000)
    back, _ = decoded(encode_whole(samples, 16_000, "flac"))
    assert np.abs(back - samples).max() < 1 / 32_000


def test_a_streamed_wav_says_that_its_length_is_unknown() -> None:
    first, *rest = streamed(tone(1, 8000), 8000, "wav")
    assert struct.unpack_from("<I", first, 4) == struct.unpack_from("<I", first, 40) == (UNKNOWN_SIZE,)
    whole = encode_whole(tone(1, 8000), 8000, "wav")
    assert struct.unpack_from("<I", whole, 4)[0] == len(whole) - 8
    assert struct.unpack_from("<I", whole, 40)[0] == len(whole) - 44 == 16_000
    assert first[44:] + b"".join(rest) == whole[44:]


@pytest.mark.parametrize("name", FORMATS)
def test_no_samples_at_all_are_no_error(name: str) -> None:
    encode_whole(np.zeros(0, np.float32), 22_050, name)
    encoder: AudioEncoder = open_encoder(name, 22_050)
    encoder.encode(np.zeros((1, 0), np.float32))
    encoder.finish()


def test_an_encoder_that_is_left_alone_makes_no_noise() -> None:
    encoder = open_encoder("opus", 22_050)
    encoder.encode(tone(1, 22_050))
    del encoder


def test_another_format_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(InvalidRequest, match='"ogg"; there are: wav, mp3, opus') as refused:
        open_encoder("ogg", 22_050)
    assert refused.value.param == "response_format"
