"""Files of any audio format → samples, by FFmpeg in this process: mono, at one rate, as a stream of blocks."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import av
import numpy as np
from av.audio.fifo import AudioFifo
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer

from deployments.errors import InvalidRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

DEMUXERS = (
    "aac ac3 aiff amr asf au avi caf eac3 flac flv matroska webm mov mp4 m4a 3gp 3g2 mj2 mp3 mpeg mpegts ogg w64 wav wv"
)
"""FFmpeg's names of what may be opened. Playlists (hls, dash, concat) are not among them: they name other files and
addresses, which FFmpeg would read."""
BLOCK = 1 << 18
"""Samples of the file in one block, about: 6 s of 44.1 kHz."""
MISSING_S, MISSING_SHARE = 1.0, 0.05
"""A file is cut off when more of what its head promises than both is missing. Heads round, and encoders pad."""
HEAD_OF_MP3 = 2048
"""Bytes before the first frame of sound in which the Xing frame is: it is a frame, at most 1,441 bytes long."""


def decode(file: "NDArray[np.uint8]", rate: int, *, max_seconds: float = math.inf) -> "Iterator[NDArray[np.float32]]":
    """Blocks of mono samples at `rate` Hz of a file's first audio track; a video's too. The file is not copied.

    Samples are those of 16-bit sound, as faster-whisper's own decoder makes them. What is damaged in the middle is left
    out. Raises InvalidRequest at "file": at once where it is no audio, in the end where it holds none or is cut off,
    and as soon as it is longer than `max_seconds`.
    """
    if not file.size:
        raise _bad("the file is empty")
    try:
        whitelist = {"format_whitelist": ",".join(DEMUXERS.split())}
        container = av.open(_Reader(file), "r", options=whitelist, metadata_errors="ignore")
    except (av.FFmpegError, ValueError) as error:
        raise _bad(
            f"the file is no audio that FFmpeg can read, or its beginning is damaged ({_words(error)})"
        ) from error
    with container:
        stream = _audio_stream(container)
        samples = 0
        for block in _resampled(_frames(container, stream), rate):
            samples += block.size
            if samples > max_seconds * rate:
                raise _bad(f"the audio is longer than the {max_seconds:g} seconds that this model takes")
            yield block
        if not samples:
            raise _bad("there is no sound in the file: it ends before its first sample, or all of it is damaged")
        promised = _promised_seconds(container, stream, file)
    missing = promised - samples / rate
    if missing > max(MISSING_S, MISSING_SHARE * promised):
        raise _bad(f"the file is cut off: of {promised:.1f} seconds, as its head says, {samples / rate:.1f} are there")


class _Reader:
    """A file for FFmpeg that reads from the array where it lies."""

    def __init__(self, file: "NDArray[np.uint8]") -> None:
        self._bytes = np.ascontiguousarray(file).data.cast("B")
        self._place = 0

    def read(self, size: int) -> bytes:
        piece = self._bytes[self._place : self._place + size]
        self._place += len(piece)
        return bytes(piece)

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, offset + (0, self._place, len(self._bytes))[whence])
        return self._place

    def tell(self) -> int:
        return self._place


def _audio_stream(container: InputContainer) -> AudioStream:
    if not container.streams.audio:
        raise _bad("the file has no audio track")
    stream = container.streams.audio[0]
    if getattr(stream, "codec_context", None) is None:
        raise _bad("FFmpeg has no decoder for the audio track")
    if not stream.rate or not stream.channels:
        raise _bad(f"the audio track has {stream.channels} channels and a sample rate of {stream.rate} Hz")
    return stream


def _frames(container: InputContainer, stream: AudioStream) -> Iterator[AudioFrame]:
    """Packet by packet: `container.decode` would end at the first one that is damaged."""
    try:
        for packet in container.demux(stream):
            try:
                yield from packet.decode()
            except av.InvalidDataError:
                continue
    except (av.FFmpegError, ValueError) as error:
        raise _bad(f"the file's audio can't be decoded ({_words(error)})") from error


def _resampled(frames: Iterator[AudioFrame], rate: int) -> "Iterator[NDArray[np.float32]]":
    """A track may change its rate or channels on its way: then a new resampler goes on."""
    shape: tuple[str, str, int] | None = None
    fifo, resampler = AudioFifo(), AudioResampler("s16", "mono", rate)
    for frame in frames:
        frame.pts = None  # gaps in time are not filled, as faster-whisper does not
        if shape != (shape := (frame.format.name, frame.layout.name, frame.sample_rate)):
            yield from _blocks(resampler, fifo.read(), last=True)
            fifo, resampler = AudioFifo(), AudioResampler("s16", "mono", rate)
        fifo.write(frame)
        if fifo.samples >= BLOCK:
            yield from _blocks(resampler, fifo.read(), last=False)
    yield from _blocks(resampler, fifo.read(), last=True)


def _blocks(resampler: AudioResampler, frame: AudioFrame | None, *, last: bool) -> "Iterator[NDArray[np.float32]]":
    given = [frame] if frame is not None else []
    for piece in [*given, *([None] if given and last else [])]:
        for out in resampler.resample(piece):
            yield out.to_ndarray()[0].astype(np.float32) / 32768


def _promised_seconds(container: InputContainer, stream: AudioStream, file: "NDArray[np.uint8]") -> float:
    """What the head says; 0 where FFmpeg's figure is its own, from what it finds in the file."""
    if container.format.name == "mp3" and not _has_xing(container, stream, file):
        return 0.0
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration is not None else 0.0


def _has_xing(container: InputContainer, stream: AudioStream, file: "NDArray[np.uint8]") -> bool:
    """Whether an mp3 begins with a frame that says how many follow."""
    container.seek(0)
    first = next(container.demux(stream)).pos or 0
    head = file[max(0, first - HEAD_OF_MP3) : first].tobytes()
    return any(mark in head for mark in (b"Xing", b"Info", b"VBRI"))


def _bad(message: str) -> InvalidRequest:
    return InvalidRequest(message).at("file")


def _words(error: Exception) -> str:
    """FFmpeg's own, without the number and the name of a file that has none."""
    return getattr(error, "strerror", None) or str(error)
