"""From the probability of speech in each frame to spans of speech: the rules that Silero publishes with its model.

Source: `get_speech_timestamps_from_probs` of the package silero-vad (MIT), without its limit on a span's length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

Span = tuple[int, int]
"""First sample, and the one after the last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpanRules:
    """What makes a span; names and defaults are silero-vad's."""

    threshold: float = 0.5
    """From this probability on a frame is speech."""
    neg_threshold: float | None = None
    """Below this one it is silence; between them it is what the frame before was. None: 0.15 less than `threshold`."""
    min_speech_duration_ms: float = 250
    """Spans that are not longer are dropped."""
    min_silence_duration_ms: float = 100
    """Silence that is shorter doesn't end a span."""
    speech_pad_ms: float = 30
    """Added before and after each span; two spans that are closer than twice this meet in the middle."""


def find_spans(probabilities: Iterable[float], frame: int, length: int, rate: int, rules: SpanRules) -> list[Span]:
    """Spans in a recording of `length` samples at `rate` Hz, by the probabilities of its frames of `frame` samples."""
    return _padded(list(_spans(probabilities, frame, length, rate, rules)), length, rate * rules.speech_pad_ms / 1000)


def _spans(probabilities: Iterable[float], frame: int, length: int, rate: int, rules: SpanRules) -> Iterator[Span]:
    silent_below = max(rules.threshold - 0.15, 0.01) if rules.neg_threshold is None else rules.neg_threshold
    min_speech = rate * rules.min_speech_duration_ms / 1000
    min_silence = rate * rules.min_silence_duration_ms / 1000
    start: int | None = None
    silence: int | None = None  # since when, in a span that it may end
    for place, probability in enumerate(probabilities):
        now = frame * place
        if probability >= rules.threshold:
            silence = None
            start = now if start is None else start
        elif probability < silent_below and start is not None:
            silence = now if silence is None else silence
            if now - silence >= min_silence:
                if silence - start > min_speech:
                    yield start, silence
                start = silence = None
    if start is not None and length - start > min_speech:
        yield start, length


def _padded(spans: list[Span], length: int, padding: float) -> list[Span]:
    """Each span grows on both sides, but not into its neighbour or out of the recording."""
    starts = [start for start, _ in spans]
    ends = [end for _, end in spans]
    for place, (silence_start, silence_end) in enumerate(zip(ends, starts[1:], strict=False)):
        gap = silence_end - silence_start
        grow = gap // 2 if gap < 2 * padding else padding
        ends[place] = int(silence_start + grow)
        starts[place + 1] = int(silence_end - grow)
    if spans:
        starts[0] = int(max(0, starts[0] - padding))
        ends[-1] = int(min(length, ends[-1] + padding))
    return list(zip(starts, ends, strict=True))
