"""Words with their times → segments of about a sentence."""

from collections.abc import Iterator, Sequence

from deployments.backends.base import Word

SENTENCE_ENDS = tuple(".?!。？！…")
CLOSING = "\"'”’»)]」』"
"""May stand after the end of a sentence."""
SHORTEST_S = 2.0
"""A segment that ends before is not worth a line, and "Mr." is no sentence."""
LONGEST_S = 12.0
"""Two lines of a subtitle, spoken slowly."""
PAUSE_S = 1.0


def split_words(words: Sequence[Word]) -> Iterator[list[Word]]:
    """Consecutive words: up to the end of a sentence, a pause, or as many as fit."""
    segment: list[Word] = []
    for word in words:
        if segment and _ends(segment, word):
            yield segment
            segment = []
        segment.append(word)
    if segment:
        yield segment


def _ends(segment: Sequence[Word], following: Word) -> bool:
    if following.end - segment[0].start > LONGEST_S:
        return True
    if segment[-1].end - segment[0].start < SHORTEST_S:
        return False
    sentence = segment[-1].word.rstrip().rstrip(CLOSING).endswith(SENTENCE_ENDS)
    return sentence or following.start - segment[-1].end >= PAUSE_S
