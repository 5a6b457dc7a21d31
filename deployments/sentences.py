"""Splits a text into sentences to be spoken one after another. Standard library only; made for no language alone.

Where a full stop may or may not end a sentence, it doesn't: a voice can speak two sentences at once, but not half of a
number.
"""

import re
import unicodedata
from collections.abc import Iterator

LONGEST = 250
"""Characters of a piece: some 15 s of speech, and about what XTTS takes. Longer sentences are cut."""
SHORTEST = 12
"""Shorter pieces are spoken with the next one: voices mumble single words."""
WIDE = 3
"""Characters that one of Chinese, Japanese or Korean stands for: it is a syllable."""

_ABBREVIATIONS = (
    # English
    "mr mrs ms dr prof st sr jr rev hon gen col maj capt cmdr lt sgt gov sen rep pres vs etc approx est inc ltd co "
    "corp dept univ assn bros ave blvd rd mt ft no nos vol fig figs pp ed eds al ca cf jan feb mar apr jun jul aug sep "
    "sept oct nov dec "
    # German, French, Spanish, Italian, Portuguese, Dutch
    "bzw usw ggf evtl nr hr fr str tel inkl vgl abs art mio mrd bspw sog mme mlle mgr sra srta dra ud uds avda sig "
    "dott dhr mevr bijv enz"
)
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
"""Words whose full stop ends no sentence. Initials and what has a stop inside, such as "e.g.", need not be here."""

STOPS = ".!?…‽؟۔।॥።፧፨։។៕၊။"
CLOSERS = r"\"'”’»›)\]}」』）】》〉"
END = re.compile(
    rf"(?<![{STOPS}])[{STOPS}]+[{CLOSERS}]*(?=\s)"  # scripts with spaces
    rf"|[。！？｡．]+[{CLOSERS}]*"  # and without
    r"|\n\s*\n|\n(?=\s*(?:[-*•–]|\d{1,3}[.)])\s)"  # paragraphs, items of a list
)
CLAUSE = re.compile(r"[,;:،؛](?=\s)|[、，；：]|[-–—](?=\s)")
LAST_WORD = re.compile(rf"([^\s(\[{{“‘«„{CLOSERS}]+)\.$")
LONGEST_ABBREVIATION = 12
UNSPEAKABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters and halves of characters: they can't be handed to a C library."""
ORDINAL = re.compile(r"\d{1,2}")
"""Before a full stop: an item of a list, or an ordinal number as in German ("am 3. Oktober")."""


def split_sentences(text: str, longest: int = LONGEST) -> list[str]:
    """The sentences, in order, without the spaces around them; those without anything to say are left out.

    No piece has more than `longest` characters: longer sentences are cut after a comma or the like, between words, or
    anywhere as a last resort. Pieces of a few characters go together with a neighbour. Takes time in proportion to the
    text, whatever is in it.
    """
    text = UNSPEAKABLE.sub(" ", text)
    pieces = [piece for sentence in _sentences(text) for piece in _cut(" ".join(sentence.split()), longest)]
    return _joined([piece for piece in pieces if speakable(piece)], longest)


def speakable(text: str) -> bool:
    """Whether there is a letter, a number or a symbol (such as € or an emoji) in it."""
    return any(unicodedata.category(character)[0] in "LNS" for character in text)


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for end in END.finditer(text):
        if end[0].isspace():
            line = text[start : end.start()].rstrip()
            yield f"{line}." if line[-1:].isalnum() else line  # a heading: the voice falls
        elif _goes_on(text, start, end):
            continue
        else:
            yield text[start : end.end()]
        start = end.end()
    yield text[start:]


def _goes_on(text: str, start: int, end: re.Match[str]) -> bool:
    """Whether the sentence that began at `start` goes on after these stops."""
    if text[end.end() : end.end() + 3].lstrip()[:1].islower():
        return True  # "Stop!" he cried and went … and so on.
    if end[0] != ".":
        return False
    word = LAST_WORD.search(text[max(start, end.start() - LONGEST_ABBREVIATION) : end.end()])
    if word is None:
        return False
    last = word[1].lower()
    initial = len(last) == 1 and last.isalpha()
    return initial or "." in last or last in ABBREVIATIONS or ORDINAL.fullmatch(last) is not None


def _cut(sentence: str, longest: int) -> Iterator[str]:
    """Pieces of at most `longest` characters, each about as long as can be."""
    start = 0
    while (end := _fitting(sentence, start, longest)) < len(sentence):
        end = _last_break(sentence, start, end)
        yield sentence[start:end].rstrip()
        start = end + (sentence[end : end + 1] == " ")
    yield sentence[start:]


def _last_break(sentence: str, start: int, end: int) -> int:
    """Where to cut: in the second half after a clause, else between words, else between characters as they are seen."""
    middle = (start + end) // 2
    clauses = [clause.end() for clause in CLAUSE.finditer(sentence, middle, end + 1) if clause.end() <= end]
    if clauses:
        return clauses[-1]
    if (space := sentence.rfind(" ", start, end + 1)) > start:
        return space
    while end > start + 1 and unicodedata.category(sentence[end])[0] == "M":
        end -= 1
    return end


def _fitting(sentence: str, start: int, longest: int) -> int:
    """How far the `longest` characters from `start` reach; at least one."""
    weight = 0
    for place in range(start, len(sentence)):
        weight += _weight(sentence[place])
        if weight > longest and place > start:
            return place
    return len(sentence)


def _weight(character: str) -> int:
    return WIDE if unicodedata.east_asian_width(character) in "WF" else 1


def _joined(pieces: list[str], longest: int) -> list[str]:
    """Short pieces together with the next one, the last with the one before."""
    joined: list[str] = []
    for place, piece in enumerate(pieces):
        last = place == len(pieces) - 1
        if joined and (_short(joined[-1]) or (last and _short(piece))):
            both = f"{joined[-1]} {piece}"
            if _fitting(both, 0, longest) == len(both):
                joined[-1] = both
                continue
        joined.append(piece)
    return joined


def _short(piece: str) -> bool:
    return len(piece) < SHORTEST and sum(map(_weight, piece)) < SHORTEST
