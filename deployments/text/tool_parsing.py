"""What parsers of tool calls have in common: what they give, and how they read text that comes in pieces.

A parser is written as one pass over a text that may stop anywhere: its steps are generators, suspended while the
text they need has not come. So what comes out does not depend on where the pieces were cut.
"""

import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from deployments.backends.base import ToolCallDelta
from deployments.text.decoding import overlap

T = TypeVar("T")
Reading = Generator[None, None, T]
"""A step that gives a T. It yields whenever it needs more text than has come."""

_SPACES = re.compile(r"\s*")
_CONTROL = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")
"""What the text of a control token looks like."""


@dataclass(slots=True)
class Parsed:
    """What a piece of the model's text has made ready."""

    content: str = ""
    calls: list[ToolCallDelta] = field(default_factory=list)


class ToolParser(Protocol):
    """Finds the tool calls of one answer. Neither method raises, whatever the model wrote."""

    def push(self, text: str) -> Parsed:
        """The next piece of text. Held back: what may be the start of a call."""
        ...

    def finish(self) -> Parsed:
        """There is no more text. What turned out to be no call is content."""
        ...


class Notation(Protocol):
    """How a family of models writes tool calls."""

    @property
    def marks(self) -> frozenset[str]:
        """Texts that the parser must see, and that are control tokens in some vocabularies."""
        ...

    def parser(self, tools: Sequence[Mapping[str, Any]]) -> ToolParser:
        """For one answer of a model that was given these tools (OpenAI's wire form)."""
        ...


def control_marks(texts: Iterable[str]) -> frozenset[str]:
    """The marks in these texts that may be control tokens."""
    return frozenset(mark for text in texts for mark in _CONTROL.findall(text))


def parameters_of(tools: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Name of each tool → JSON Schemas of its arguments, by name."""
    functions = [tool.get("function", tool) for tool in tools]
    return {str(f.get("name", "")): (f.get("parameters") or {}).get("properties") or {} for f in functions}


class StreamedParser(ABC):
    """A ToolParser whose subclass reads the answer from front to back, in `_read`.

    A cursor stands in the text that has come. What lies before it is undecided until it is said (content) or dropped
    (part of a call). White space next to a call belongs to the call's notation.
    """

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        """The cursor."""
        self._ended = False
        self._space = ""
        """White space that the content ends in. It is sent with what follows, unless that is a call."""
        self._spoke = False
        """There was content since the last call."""
        self._calls = 0
        self._parsed = Parsed()
        self._steps = self._read()

    def push(self, text: str) -> Parsed:
        self._text += text
        next(self._steps, None)
        return self._ready()

    def finish(self) -> Parsed:
        self._ended = True
        next(self._steps, None)
        if not self._calls:
            self._parsed.content += self._space
        return self._ready()

    @abstractmethod
    def _read(self) -> Reading[None]:
        """The whole answer; returns at its end, when all text is said or dropped."""

    def _ready(self) -> Parsed:
        parsed, self._parsed = self._parsed, Parsed()
        return parsed

    # ---- what becomes of text ----

    def _say(self, end: int) -> None:
        """The text up to `end` is content. The cursor is then there."""
        text, self._text, self._at = self._space + self._text[:end], self._text[end:], 0
        if self._calls and not self._spoke:
            text = text.lstrip()
        said = text.rstrip()
        self._space = text[len(said) :]
        self._spoke |= bool(said)
        self._parsed.content += said

    def _drop(self) -> str:
        """The text up to the cursor is part of a call. Returns it."""
        text, self._text, self._at = self._text[: self._at], self._text[self._at :], 0
        return text

    def _announce(self, name: str) -> None:
        """A call begins; the text up to the cursor was its head."""
        self._drop()
        self._space, self._spoke = "", False
        self._parsed.calls.append(ToolCallDelta(self._calls, new_call_id(), name))
        self._calls += 1

    def _argue(self, arguments: str) -> None:
        """A piece of the announced call's arguments."""
        if not self._parsed.calls:
            self._parsed.calls.append(ToolCallDelta(self._calls - 1))
        self._parsed.calls[-1].arguments += arguments

    # ---- reading ----

    def _more(self) -> Reading[bool]:
        """Wait for text. False: there is no more."""
        if not self._ended:
            yield
        return not self._ended

    def _peek(self, offset: int = 0) -> Reading[str]:
        """The character at the cursor, or so many after it; empty at the end."""
        while self._at + offset >= len(self._text):
            if not (yield from self._more()):
                return ""
        return self._text[self._at + offset]

    def _run(self, pattern: re.Pattern[str]) -> Reading[str]:
        """Move over what the pattern matches at the cursor: any run of some characters, the empty one too."""
        while True:
            match = pattern.match(self._text, self._at)
            end = match.end() if match else self._at
            if end < len(self._text) or not (yield from self._more()):
                run, self._at = self._text[self._at : end], end
                return run

    def _spaces(self) -> Reading[str]:
        return self._run(_SPACES)

    def _take(self, marks: Iterable[str]) -> Reading[str]:
        """Move over one of the marks, the longest that is at the cursor. Empty: none is."""
        by_length = sorted(marks, key=len, reverse=True)
        while True:
            rest = self._text[self._at :]
            mark = next((m for m in by_length if rest.startswith(m) or (m.startswith(rest) and not self._ended)), "")
            if rest.startswith(mark):
                self._at += len(mark)
                return mark
            yield from self._more()

    def _find(self, marks: Sequence[str]) -> Reading[str]:
        """Move to the first of the marks, of two in one place the longer. Empty: there is none, to the end."""
        while True:
            self._at, mark = self._first(marks)
            if mark or self._ended:
                return mark
            yield from self._more()

    def _say_until(self, marks: Sequence[str]) -> Reading[str]:
        """Content up to the first of the marks, where the cursor is then. Empty: there is none, to the end."""
        while True:
            end, mark = self._first(marks)
            self._say(end)
            if mark or self._ended:
                return mark
            yield from self._more()

    def _first(self, marks: Iterable[str]) -> tuple[int, str]:
        """Where the first mark after the cursor is, and which; an empty one: it may begin there."""
        found = len(self._text), 0, ""
        for mark in marks:
            at = self._text.find(mark, self._at)
            if at >= 0:
                found = min(found, (at, -len(mark), mark))
            elif not self._ended:
                found = min(found, (len(self._text) - overlap(self._text[self._at :], mark), -len(mark), ""))
        return found[0], found[2]


def new_call_id() -> str:
    return f"call_{uuid.uuid4().hex[:24]}"
