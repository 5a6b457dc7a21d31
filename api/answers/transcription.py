"""Transcripts on the wire: OpenAI's and LocalAI's formats, and the events of one that is sent as it is made."""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

from api.answers.languages import LANGUAGES
from api.schemas.transcription import TranscriptFormat, TranscriptionCreateParams
from api.sse import event
from deployments.backends.base import Segment, SegmentGroup, Transcription

JSON, TEXT = "application/json", "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the answer depends on besides the transcription."""

    params: TranscriptionCreateParams
    translate: bool


@dataclass(frozen=True, slots=True)
class Writer:
    """One format of transcripts."""

    media_type: str
    write: Callable[[Transcription, Asked], str | bytes]


def transcript_response(transcription: Transcription, asked: Asked) -> Response:
    """The whole answer in the format that was asked for."""
    writer = WRITERS[asked.params.response_format]
    return Response(writer.write(transcription, asked), media_type=writer.media_type)


async def transcript_events(groups: AsyncGenerator[SegmentGroup, None]) -> AsyncGenerator[bytes, None]:
    """OpenAI's events: the deltas joined are the text that the last one has."""
    text = held = ""
    async with aclosing(groups):
        async for group in groups:
            piece = held + "".join(segment.text for segment in group.segments)
            piece = piece if text else piece.lstrip()
            delta = piece.rstrip()
            held = piece[len(delta) :]  # space at the end may be the transcript's end
            text += delta
            if delta:
                yield event({"type": "transcript.text.delta", "delta": delta})
    yield event({"type": "transcript.text.done", "text": text})


# ---- formats ---------------------------------------------------------------------------------------------------------


def _json(transcription: Transcription, _: Asked) -> bytes:
    return orjson.dumps({"text": _text_of(transcription)})


def _verbose(transcription: Transcription, asked: Asked) -> bytes:
    """With `words`, `segments` or both, as asked."""
    granularities = asked.params.timestamp_granularities or ["segment"]
    parts: dict[str, Any] = {
        "task": "translate" if asked.translate else "transcribe",
        "language": "english" if asked.translate else LANGUAGES.get(transcription.language, transcription.language),
        "duration": transcription.duration,
        "text": _text_of(transcription),
    }
    if "word" in granularities:
        parts["words"] = [
            {"word": word.word.strip(), "start": word.start, "end": word.end}
            for segment in transcription.segments
            for word in segment.words
        ]
    if "segment" in granularities:
        parts["segments"] = [_segment(segment) for segment in transcription.segments]
    parts["usage"] = {"type": "duration", "seconds": transcription.duration}
    return orjson.dumps(parts, option=orjson.OPT_SERIALIZE_NUMPY)


def _segment(segment: Segment) -> Mapping[str, Any]:
    return {name: getattr(segment, name) for name in SEGMENT_FIELDS}


SEGMENT_FIELDS = (
    "id",
    "seek",
    "start",
    "end",
    "text",
    "tokens",
    "temperature",
    "avg_logprob",
    "compression_ratio",
    "no_speech_prob",
)
"""OpenAI's, in its order."""


def _plain(transcription: Transcription, _: Asked) -> str:
    return _text_of(transcription) + "\n"


def _srt(transcription: Transcription, _: Asked) -> str:
    """SubRip: numbered blocks, a comma before the milliseconds."""
    return "".join(
        f"{number}\n{_clock(start, ',')} --> {_clock(end, ',')}\n{text}\n\n"
        for number, (start, end, text) in enumerate(_cues(transcription), 1)
    )


def _vtt(transcription: Transcription, _: Asked) -> str:
    """WebVTT (W3C)."""
    return "WEBVTT\n\n" + "".join(
        f"{_clock(start, '.')} --> {_clock(end, '.')}\n{text}\n\n" for start, end, text in _cues(transcription)
    )


def _lrc(transcription: Transcription, _: Asked) -> str:
    """Lyrics: when each line begins, in minutes, however many, seconds and hundredths."""
    return "".join(f"[{_minutes(start)}]{text}\n" for start, _, text in _cues(transcription))


WRITERS: Mapping[TranscriptFormat, Writer] = {
    "json": Writer(JSON, _json),
    "verbose_json": Writer(JSON, _verbose),
    "text": Writer(TEXT, _plain),
    "txt": Writer(TEXT, _plain),
    "srt": Writer("application/x-subrip", _srt),
    "vtt": Writer("text/vtt; charset=utf-8", _vtt),
    "lrc": Writer(TEXT, _lrc),
}


def _text_of(transcription: Transcription) -> str:
    return "".join(segment.text for segment in transcription.segments).strip()


def _cues(transcription: Transcription) -> Iterator[tuple[float, float, str]]:
    """Start, end, text. An arrow in a text would read as a time's."""
    for segment in transcription.segments:
        yield segment.start, segment.end, " ".join(segment.text.replace("-->", "->").split())


def _clock(seconds: float, point: str) -> str:
    milliseconds = round(1000 * seconds)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _minutes(seconds: float) -> str:
    minutes, hundredths = divmod(round(100 * seconds), 6000)
    return f"{minutes:02}:{hundredths // 100:02}.{hundredths % 100:02}"
