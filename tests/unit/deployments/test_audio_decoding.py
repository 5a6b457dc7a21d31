"""Decoding: a tone through every container, and files that are none, cut off, or too long."""

import gc
import io
from typing import Any

import numpy as np
import psutil
import pytest

av = pytest.importorskip("av")

from deployments.audio_decoding import decode  # noqa: E402
from deployments.errors import InvalidRequest  # noqa: E402

RATE = 16_000
TONE = 440.0
FORMATS = {
    "wav": ("wav", "pcm_s16le", 44_100, {}),
    "mp3": ("mp3", "libmp3lame", 44_100, {}),
    "opus": ("ogg", "libopus", 48_000, {}),
    "flac": ("flac", "flac", 22_050, {}),
    "m4a": ("ipod", "aac", 44_100, {}),
    "webm": ("webm", "libopus", 48_000, {}),
    "aac": ("adts", "aac", 44_100, {}),
    "plain mp3": ("mp3", "libmp3lame", 16_000, {"write_xing": "0"}),
}
"""Name → container, codec, rate, options."""
CHANNELS = {"mono": 1, "stereo": 2}


def encoded(name: str, seconds: float = 4.0, layout: str = "stereo") -> bytes:
    """A tone as a file."""
    container_name, codec, rate, options = FORMATS[name]
    file = io.BytesIO()
    with av.open(file, "w", format=container_name, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        wave = 0.5 * np.sin(2 * np.pi * TONE * np.arange(round(seconds * rate)) / rate)
        frame = av.AudioFrame.from_ndarray(np.tile(wave, (CHANNELS[layout], 1)).astype(np.float32), "fltp", layout)
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, layout, rate, stream.codec_context.frame_size or 1024)
        for piece in [*resampler.resample(frame), *resampler.resample(None), None]:
            container.mux(stream.encode(piece))
    return file.getvalue()


def samples(file: bytes, **limits: Any) -> np.ndarray:
    return np.concatenate(list(decode(np.frombuffer(file, np.uint8), RATE, **limits)))


def refused(file: bytes, **limits: Any) -> str:
    with pytest.raises(InvalidRequest) as caught:
        samples(file, **limits)
    assert caught.value.param == "file"
    assert caught.value.status == 400
    return caught.value.message


@pytest.mark.parametrize("name", FORMATS)
def test_a_tone_is_the_same_tone_from_every_format(name: str) -> None:
    found = samples(encoded(name))
    assert found.dtype == np.float32
    assert found.size / RATE == pytest.approx(4.0, abs=0.15)
    middle = found[RATE : 3 * RATE]
    assert np.abs(np.fft.rfft(middle)).argmax() / 2 == pytest.approx(TONE, abs=1)
    assert np.abs(middle).max() == pytest.approx(0.5, abs=0.05)


def test_blocks_come_one_after_another() -> None:
    blocks = list(decode(np.frombuffer(encoded("wav", 60), np.uint8), RATE))
    assert len(blocks) > 5
    assert sum(block.size for block in blocks) == 60 * RATE


def test_the_audio_of_a_video() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        audio = container.add_stream("pcm_s16le", rate=RATE, layout="mono")
        container.mux(video.encode(av.VideoFrame(32, 32, "yuv420p")))
        frame = av.AudioFrame.from_ndarray(np.full((1, RATE), 1000, np.int16), "s16", "mono")
        frame.sample_rate = RATE
        for piece in [frame, None]:
            container.mux(audio.encode(piece))
        container.mux(video.encode(None))
    assert samples(file.getvalue()) == pytest.approx(np.full(RATE, 1000 / 32768), abs=1e-6)


def test_a_recording_whose_head_was_never_finished_is_read() -> None:
    """As a recorder that streams writes it: lengths unknown."""
    file = bytearray(encoded("wav", layout="mono"))
    place = file.index(b"data") + 4
    for unknown in (b"\xff\xff\xff\xff", b"\0\0\0\0"):
        file[4:8] = file[place : place + 4] = unknown
        assert samples(bytes(file)).size == 4 * RATE


def test_damage_in_the_middle_costs_only_what_is_damaged() -> None:
    file = bytearray(encoded("flac", 20))
    file[len(file) // 2 : len(file) // 2 + 64] = bytes(64)
    assert 19 < samples(bytes(file)).size / RATE <= 20


@pytest.mark.parametrize("name", ["mp3", "flac", "webm"])
def test_a_file_that_is_cut_off(name: str) -> None:
    file = encoded(name, 10)
    message = refused(file[: len(file) // 2])
    assert "cut off: of 10.0 seconds" in message


def test_a_few_bytes_too_few_are_no_cut() -> None:
    assert samples(encoded("mp3")[:-7]).size > 3.8 * RATE


def test_too_little_for_one_sample() -> None:
    for name in FORMATS:
        refused(encoded(name)[:40])


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "empty"),
        (b"hello, world. " * 1000, "no audio"),
        (bytes(100_000), "no audio"),
        (b"\x89PNG\r\n\x1a\n" + bytes(1000), "no audio"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "no audio"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "no audio"),
    ],
)
def test_what_is_no_audio(file: bytes, says: str) -> None:
    assert says in refused(file)


@pytest.mark.parametrize(("field", "says"), [(22, "0 channels"), (24, "no audio")])
def test_a_wav_without_channels_or_rate(field: int, says: str) -> None:
    file = bytearray(encoded("wav"))
    file[field : field + (2 if field == 22 else 4)] = bytes(2 if field == 22 else 4)
    assert says in refused(bytes(file))


def test_a_wav_without_a_sample() -> None:
    file = encoded("wav")
    head = file[: file.index(b"data") + 4]
    assert "no sound" in refused(head + bytes(4))


def test_a_video_without_sound() -> None:
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width = video.height = 32
        for piece in [av.VideoFrame(32, 32, "yuv420p"), None]:
            container.mux(video.encode(piece))
    assert "no audio track" in refused(file.getvalue())


def test_the_longest_that_may_be() -> None:
    file = encoded("mp3", 20)
    assert samples(file, max_seconds=21).size
    assert "longer than the 10 seconds" in refused(file, max_seconds=10)


def test_500_megabytes_of_zeros_are_refused_at_once_and_not_copied() -> None:
    zeros = np.zeros(500_000_000, np.uint8)
    process = psutil.Process()
    before = process.memory_info().rss
    with pytest.raises(InvalidRequest, match="no audio"):
        list(decode(zeros, RATE))
    gc.collect()
    assert process.memory_info().rss - before < 50_000_000


def test_a_long_file_is_never_held_as_a_whole() -> None:
    file = np.frombuffer(encoded("flac", 600), np.uint8)
    process = psutil.Process()
    before = process.memory_info().rss
    for block in decode(file, RATE):  # 38 MB of samples in all
        assert block.nbytes < 2_000_000
        assert process.memory_info().rss - before < 20_000_000
