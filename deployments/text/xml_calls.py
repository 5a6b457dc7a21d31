"""Tool calls as XML-like tags, one for each argument: Qwen3-Coder, GLM 4.5, MiniMax M2, Seed-OSS, LocalAI's own."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from deployments.config_blocks import XmlFormat
from deployments.text.tool_parsing import Reading, StreamedParser, control_marks, parameters_of

_NAME = re.compile(r"[\w.\-]+")
_EMPTY_LINE = "\n\n"
_PYTHONS = {"True": "true", "False": "false", "None": "null"}
"""Constants as Python writes them → as JSON does."""


@dataclass(frozen=True, slots=True)
class XmlNotation:
    """A name and arguments, each between tags."""

    format: XmlFormat

    @property
    def marks(self) -> frozenset[str]:
        return control_marks(text for text in astuple(self.format) if isinstance(text, str))

    def parser(self, tools: Sequence[Mapping[str, Any]]) -> "XmlCalls":
        return XmlCalls(self, tools)

    def json_of(self, value: str, schema: Mapping[str, Any] | None) -> str:
        """An argument as JSON text."""
        value = value.strip() if self.format.trim_raw_argval else value.removeprefix("\n").removesuffix("\n")
        types = _types(schema or {})
        is_text = self.format.raw_argval or (self.format.raw_argval is None and "string" in types)
        if is_text and not (value == "null" and "null" in types):
            return json.dumps(value, ensure_ascii=False)
        written = _PYTHONS.get(value.strip(), value.strip())
        return written if _is_json(written) else json.dumps(value, ensure_ascii=False)


class XmlCalls(StreamedParser):
    """A call is announced when its name is known. Its arguments become JSON one by one, each when it is whole."""

    def __init__(self, notation: XmlNotation, tools: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self._json_of = notation.json_of
        self._format = notation.format
        self._parameters = parameters_of(tools)

    def _read(self) -> Reading[None]:
        starts = _given(self._format.scope_start, self._format.tool_start)
        while mark := (yield from self._say_until(starts)):
            self._at = len(mark)
            if not (yield from self._calls_behind(mark)):
                self._say(len(mark))

    def _calls_behind(self, mark: str) -> Reading[bool]:
        """Calls behind an opening mark. Whether there is one."""
        form, calls = self._format, self._calls
        if mark != form.tool_start:
            yield from self._spaces()
            if not (yield from self._take([form.tool_start])):
                return False
        while (yield from self._call()):
            yield from self._spaces()
            if (yield from self._take(_given(form.scope_end))):
                self._drop()
                break
            if not (yield from self._take([form.tool_start])):
                self._at = 0
                break
        return self._calls > calls

    def _call(self) -> Reading[bool]:
        """The call whose opening mark is behind the cursor."""
        form, start = self._format, self._at
        ends = [form.tool_sep] if form.tool_sep else [form.key_start, form.tool_end, "\n"]
        end = yield from self._find([*ends, _EMPTY_LINE] if form.tool_sep else ends)
        name = self._text[start : self._at].strip()
        if end not in ends or not _NAME.fullmatch(name):
            return False
        self._at += len(form.tool_sep)
        head_end = self._at
        yield from self._spaces()
        goes_on = yield from self._take(_given(form.key_start, form.tool_end, form.last_tool_end))
        if not goes_on and ((yield from self._peek()) or name not in self._parameters):
            return False
        self._at = head_end
        self._announce(name)
        yield from self._arguments(self._parameters.get(name, {}))
        return True

    def _arguments(self, schemas: Mapping[str, Any]) -> Reading[None]:
        """All arguments and the closing mark. The JSON of an answer that ends within an argument stays open."""
        form, before = self._format, "{"
        marks = _given(form.key_start, form.tool_end, form.last_tool_end)
        yield from self._spaces()
        while (yield from self._take(marks)) == form.key_start:
            self._drop()
            if not (yield from self._find([form.key_val_sep])):
                self._drop()
                return
            key = self._drop().strip()
            yield from self._take([form.key_val_sep])
            if form.key_val_sep2:
                yield from self._spaces()
                yield from self._take([form.key_val_sep2])
            self._drop()
            end = yield from self._find(_given(form.val_end, form.last_val_end))
            value = self._json_of(self._drop(), schemas.get(key))
            self._argue(f"{before}{json.dumps(key, ensure_ascii=False)}: ")
            self._argue(value if end else value.removesuffix('"'))
            if not end:
                return
            yield from self._take([end])
            yield from self._spaces()
            before = ", "
        self._drop()
        self._argue("{}" if before == "{" else "}")


def _given(*marks: str | None) -> list[str]:
    return [mark for mark in marks if mark]


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The types that a schema names, in its alternatives, too."""
    own = schema.get("type")
    types = {own} if isinstance(own, str) else set(own or ())
    for alternative in [*schema.get("anyOf", []), *schema.get("oneOf", [])]:
        types |= _types(alternative)
    return types


def _is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def _refuse(constant: str) -> None:
    """NaN and Infinity, which Python reads, are no JSON."""
    raise ValueError(constant)
