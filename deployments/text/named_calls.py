"""Tool calls as a name between marks and arguments as JSON: Mistral, DeepSeek, Kimi, Functionary."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from deployments.text.json_calls import JsonCalls, JsonNotation
from deployments.text.tool_parsing import Reading, control_marks

_BETWEEN = re.compile(r"[\s,;`]*")
_FENCES = ("```json", "```")
_NAME = re.compile(r"[\w.\-]*")
_EMPTY_LINE = "\n\n"
"""Stands in no head: it says early that there is none."""


@dataclass(frozen=True, kw_only=True)
class NamedNotation:
    """`<opening>name<…>{arguments}<closing>`; after an opening mark JSON with a name in it is read, too."""

    openings: tuple[str, ...]
    head: str = ""
    """Regular expression of all that stands between an opening mark and the arguments; its group `name` is the name."""
    recipient_end: str = ""
    """Without a `head`: only a name stands there, up to this."""
    inside: tuple[str, ...] = ()
    """Marks within the head."""
    closings: tuple[str, ...] = ()
    """Dropped after a call, in any number."""
    starts_open: bool = False
    """The prompt ends in an opening mark."""
    talks: frozenset[str] = frozenset()
    """Names under which the model addresses the user: what follows is content."""
    json: JsonNotation = field(default_factory=lambda: JsonNotation(bare=False))

    @property
    def marks(self) -> frozenset[str]:
        return control_marks([*self.openings, *self.inside, self.recipient_end, *self.closings])

    @cached_property
    def head_pattern(self) -> re.Pattern[str]:
        return re.compile(self.head)

    def parser(self, tools: Sequence[Mapping[str, Any]]) -> "NamedCalls":
        return NamedCalls(self, tools)


class NamedCalls(JsonCalls):
    """A call is announced when its arguments begin; they are passed on as they come."""

    def __init__(self, notation: NamedNotation, tools: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(notation.json, tools)
        self._named = notation

    def _read(self) -> Reading[None]:
        if self._named.json.bare:
            yield from self._calls_here(bare=True)
        if self._named.starts_open:
            yield from self._opened("")
        while mark := (yield from self._say_until(self._named.openings)):
            yield from self._opened(mark)

    def _opened(self, mark: str) -> Reading[None]:
        """Behind an opening mark: a call, or what is said to the user. Else the mark is content."""
        self._at = len(mark)
        called = yield from self._calls_here(bare=False)
        name = "" if called else (yield from self._name(len(mark)))
        if name in self._named.talks:
            self._drop()
        elif called or (name and (yield from self._call_of(name))):
            yield from self._run(_BETWEEN)
            yield from self._close(self._named.closings)
        else:
            self._say(len(mark))

    def _name(self, start: int) -> Reading[str]:
        """The head at `start`. Empty: there is none."""
        self._at = start
        if end := self._named.recipient_end:
            yield from self._spaces()
            name = yield from self._run(_NAME)
            return name if (yield from self._take([end])) else ""
        yield from self._find(("{", *self._named.closings, _EMPTY_LINE))
        head = self._named.head_pattern.fullmatch(self._text, start, self._at)
        return head["name"] if head else ""

    def _call_of(self, name: str) -> Reading[bool]:
        """The arguments at the cursor. There may be none, for a tool that the model was given."""
        yield from self._spaces()
        yield from self._take(_FENCES)
        yield from self._spaces()
        if (yield from self._starts_object()):
            self._announce(name)
            yield from self._pass_on()
            return True
        if name in self._known and (yield from self._take(self._named.closings)):
            self._announce(name)
            self._argue("{}")
            return True
        return False
