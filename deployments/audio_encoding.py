"""Samples → encoded audio, block by block: WAV and raw PCM by hand, the others by FFmpeg's libraries (PyAV)."""

import io
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from deployments.audio_formats import FORMATS
from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN_SIZE = 0xFFFF_FFFF
"""In the header of a WAV whose end is not known yet, as FFmpeg writes it into a pipe."""
LAYOUTS = {1: "mono", 2: "stereo"}


class AudioEncoder(Protocol):
    """Encodes one file. Its calls come one after another, from any thread."""

    def encode(self, samples: "NDArray[np.float32]") -> bytes:
        """What is ready of the file after these samples, [channels, n] or, of one channel, [n], from -1 to 1."""
        ...

    def finish(self) -> bytes:
        """The rest of the file."""
        ...


def open_encoder(name: str, rate: int, channels: int = 1, *, whole: bool = False) -> AudioEncoder:
    """An encoder for a row of `audio_formats.FORMATS`; raises InvalidRequest for another name.

    `whole`: nothing comes before `finish()`, so that the head of the file can say how long it is.
    """
    if name not in FORMATS:
        raise InvalidRequest(f'no audio format "{name}"; there are: {", ".join(FORMATS)}').at("response_format")
    if name in CODECS:
        return _Compressed(CODECS[name], rate, channels, whole)
    return _Pcm(_WavHead(rate, channels) if name == "wav" else None, whole)


def encode_whole(samples: "NDArray[np.float32]", rate: int, name: str) -> bytes:
    """A whole file. `samples` are [channels, n] or [n]; raises InvalidRequest for a format that there isn't."""
    encoder = open_encoder(name, rate, len(np.atleast_2d(samples)), whole=True)
    return encoder.encode(samples) + encoder.finish()


# ---- PCM -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _WavHead:
    """The 44 bytes before the samples (RIFF; all integers little-endian)."""

    rate: int
    channels: int

    def of(self, size: int | None) -> bytes:
        """`size`: bytes of samples, None when it is not known or too large for the field."""
        if size is None or size + 36 > UNKNOWN_SIZE:
            riff = data = UNKNOWN_SIZE
        else:
            riff, data = size + 36, size
        frame = 2 * self.channels
        return struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", riff, b"WAVE"),
            *(b"fmt ", 16, 1, self.channels, self.rate, self.rate * frame, frame, 16),
            *(b"data", data),
        )


class _Pcm:
    """16-bit little-endian samples, channels interleaved, behind a WAV's head or none."""

    def __init__(self, head: _WavHead | None, whole: bool) -> None:
        self._head = head
        self._whole = whole
        self._kept: list[bytes] = []
        """Of a whole file; else what comes before the next samples."""
        if head and not whole:
            self._kept.append(head.of(None))

    def encode(self, samples: "NDArray[np.float32]") -> bytes:
        self._kept.append(_int16(np.atleast_2d(samples)).T.tobytes())
        return b"" if self._whole else self._take()

    def finish(self) -> bytes:
        if self._head and self._whole:
            self._kept.insert(0, self._head.of(sum(map(len, self._kept))))
        return self._take()

    def _take(self) -> bytes:
        data = b"".join(self._kept)
        self._kept.clear()
        return data


def _int16(samples: "NDArray[np.float32]") -> "NDArray[np.int16]":
    scaled: NDArray[np.float32] = np.rint(np.clip(samples, -1.0, 1.0) * np.float32(32767))
    return scaled.astype("<i2")


# ---- compressed ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Codec:
    """How FFmpeg makes a format."""

    container: str
    codec: str
    rates: tuple[int, ...] = ()
    """Hz that it can be asked for, ascending; the next higher one is used. Empty: any."""
    kbit_per_channel: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    """Of the container."""


CODECS: dict[str, Codec] = {
    "mp3": Codec("mp3", "libmp3lame", (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000), 64),
    # A page of Ogg goes out when it is full: a second by default.
    "opus": Codec("ogg", "libopus", (8000, 12000, 16000, 24000, 48000), 40, {"page_duration": "200000"}),
    # ADTS can't name the 1024 samples of padding in front: at these rates they are 21 to 23 ms.
    "aac": Codec("adts", "aac", (44100, 48000), 80),
    "flac": Codec("flac", "flac"),
}
"""Rows of `audio_formats.FORMATS` that are compressed."""


class _Compressed:
    """One file through PyAV. Codecs that work at fixed rates get resampled audio."""

    def __init__(self, codec: Codec, rate: int, channels: int, whole: bool) -> None:
        import av  # the replicas of models without sound do without it

        self._frame = av.AudioFrame
        self._rate = rate
        self._layout = LAYOUTS[channels]
        self._whole = whole
        self._sink = io.BytesIO() if whole else _Sink()
        self._container = av.open(
            self._sink, "w", format=codec.container, options={"flush_packets": str(int(not whole)), **codec.options}
        )
        out = next((at for at in codec.rates if at >= rate), codec.rates[-1]) if codec.rates else rate
        stream = self._container.add_stream(codec.codec, rate=out, layout=self._layout)
        assert isinstance(stream, av.AudioStream), "the table holds audio codecs alone"
        self._stream = stream
        if codec.kbit_per_channel is not None:
            self._stream.bit_rate = 1000 * codec.kbit_per_channel * channels
        self._samples = 0

    def encode(self, samples: "NDArray[np.float32]") -> bytes:
        planes = np.ascontiguousarray(np.clip(np.atleast_2d(samples), -1.0, 1.0), np.float32)
        if planes.shape[1]:
            frame = self._frame.from_ndarray(planes, format="fltp", layout=self._layout)
            frame.sample_rate, frame.pts = self._rate, self._samples
            self._samples += planes.shape[1]
            self._container.mux(self._stream.encode(frame))
        return b"" if self._whole else self._sink.getvalue()

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.getvalue()


class _Sink:
    """A file that can't be gone back in: what was written is taken out."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(data)
        return len(data)

    def getvalue(self) -> bytes:
        data = b"".join(self._parts)
        self._parts.clear()
        return data
