"""Tool calls as JSON objects with a name and arguments: bare, or between marks (Hermes, Qwen, Llama 3, Granite, …)."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deployments.text.nesting import Nesting
from deployments.text.tool_parsing import Reading, StreamedParser, control_marks, parameters_of

_SCALAR = re.compile(r"[^\s,}\]]*")
_BEFORE = re.compile(r"[\s\[]*")
_BETWEEN = re.compile(r"[\s,;\]}`]*")
"""What stands between calls and after the last one; a brace too many is a mistake that small models make."""
_OTHER_KEYS = ("type", "id", "index")
"""Of a call without a mark, before it is known to be one. Any other key: a plain answer in JSON, which may be long."""
_FENCES = ("```json", "```")


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonNotation:
    """`{"name": …, "arguments": {…}}`, or an array of those."""

    marks_of_calls: Mapping[str, str] = field(default_factory=dict)
    """What stands before a call, or before several → what after; empty: nothing."""
    bare: bool = True
    """Calls may also stand at the very start without a mark, then only of tools that the model was given."""
    name_keys: tuple[str, ...] = ("name",)
    arguments_keys: tuple[str, ...] = ("arguments", "parameters")

    @property
    def marks(self) -> frozenset[str]:
        return control_marks([*self.marks_of_calls, *self.marks_of_calls.values()])

    def parser(self, tools: Sequence[Mapping[str, Any]]) -> "JsonCalls":
        return JsonCalls(self, tools)


@dataclass(slots=True)
class _Call:
    """What is known of a call that is not announced yet."""

    bare: bool
    name: str | None = None
    arguments: str | None = None
    """Whole, as JSON text."""
    announced: bool = False


class JsonCalls(StreamedParser):
    """A call is announced as soon as its name and the start of its arguments are known.

    From then on its arguments are passed on as they are written, be they broken: OpenAI's clients expect that.
    """

    def __init__(self, notation: JsonNotation, tools: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._notation = notation
        self._known = frozenset(parameters_of(tools))

    def _read(self) -> Reading[None]:
        if self._notation.bare:
            yield from self._calls_here(bare=True)
        while mark := (yield from self._say_until(list(self._notation.marks_of_calls))):
            self._at = len(mark)
            if (yield from self._calls_here(bare=False)):
                yield from self._close([self._notation.marks_of_calls[mark]])
            else:
                self._say(len(mark))

    def _close(self, marks: Sequence[str]) -> Reading[None]:
        """Drop those of the marks that stand after a call."""
        while (yield from self._take(filter(None, marks))):
            yield from self._spaces()
        self._drop()

    def _calls_here(self, *, bare: bool) -> Reading[bool]:
        """Calls at the cursor. Whether there is one; if so all text up to the cursor is dropped, else it is at 0."""
        calls = self._calls
        yield from self._spaces()
        yield from self._take(_FENCES)
        yield from self._run(_BEFORE)
        while (yield from self._peek()) == "{" and (yield from self._call(bare)):
            yield from self._run(_BETWEEN)
            self._drop()
        self._at = 0
        return self._calls > calls

    def _call(self, bare: bool) -> Reading[bool]:
        """The object at the cursor, if it is a call."""
        call = _Call(bare)
        whole = yield from self._members(call)
        if whole and call.name and call.arguments is None:
            call.arguments = "{}"
            self._announce_whole(call)
        if whole and call.announced:
            self._drop()
        self._at = 0
        return call.announced

    def _members(self, call: _Call) -> Reading[bool]:
        """Read an object. False: it is broken, or can't be a call."""
        self._at += 1
        while True:
            yield from self._spaces()
            match (yield from self._peek()):
                case '"':
                    if not (yield from self._member(call)):
                        return False
                case ",":
                    self._at += 1
                case "}":
                    self._at += 1
                    return True
                case _:
                    return False

    def _member(self, call: _Call) -> Reading[bool]:
        key = _decoded((yield from self._value()))
        yield from self._spaces()
        if key is None or (yield from self._peek()) != ":":
            return False
        self._at += 1
        yield from self._spaces()
        if key in self._notation.name_keys and call.name is None:
            call.name = _decoded((yield from self._value()))
            if not call.name or (call.bare and call.name not in self._known):
                return False
        elif key in self._notation.arguments_keys and call.arguments is None:
            if not (yield from self._arguments(call)):
                return False
        elif (call.bare and not call.announced and key not in _OTHER_KEYS) or not (yield from self._value()):
            return False
        self._announce_whole(call)
        return True

    def _announce_whole(self, call: _Call) -> None:
        if call.name and call.arguments is not None and not call.announced:
            call.announced = True
            self._announce(call.name)
            self._argue(call.arguments)

    def _arguments(self, call: _Call) -> Reading[bool]:
        """An object, passed on as it comes where the name is known; or JSON text of one, or null."""
        if call.name and (yield from self._starts_object()):
            call.announced, call.arguments = True, ""
            self._announce(call.name)
            yield from self._pass_on()
            return True
        call.arguments = _object_text((yield from self._value()))
        return call.arguments is not None

    def _starts_object(self) -> Reading[bool]:
        """Whether what is at the cursor begins as an object of JSON must."""
        if (yield from self._peek()) != "{":
            return False
        offset = 1
        while (character := (yield from self._peek(offset))).isspace():
            offset += 1
        return character in ('"', "}")

    def _pass_on(self) -> Reading[None]:
        """The object at the cursor is the announced call's arguments."""
        nesting = Nesting()
        while True:
            end = nesting.end(self._text, self._at)
            self._at = len(self._text) if end is None else end
            self._argue(self._drop())
            if end is not None or not (yield from self._more()):
                return

    def _value(self) -> Reading[str]:
        """The JSON value at the cursor, as text; empty: it is not whole."""
        if (yield from self._peek()) not in ("{", "[", '"'):
            return (yield from self._run(_SCALAR))
        nesting, start, read = Nesting(), self._at, self._at
        while (end := nesting.end(self._text, read)) is None:
            read = len(self._text)
            if not (yield from self._more()):
                return ""
        self._at = end
        return self._text[start:end]


def _decoded(text: str) -> str | None:
    """The string that this is the JSON text of. Raw newlines in it are let pass, as LocalAI does."""
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, str) else None


def _object_text(text: str) -> str | None:
    """JSON text of arguments, from that of an object, of a string that holds such a text, or of null."""
    try:
        value = json.loads(text, strict=False)
        if value is None or value == "":
            return "{}"
        if isinstance(value, str):
            return value if isinstance(json.loads(value), dict) else None
    except (ValueError, RecursionError):
        return None
    return text if isinstance(value, dict) else None
