"""The pseudo-tool by which a model that must write calls says that it wants none (LocalAI's "no action")."""

import re

from deployments.backends.base import ToolCallDelta
from deployments.text.tool_parsing import Parsed, ToolParser

MESSAGE = "message"
"""Its one argument (`function_grammar.no_action_tool`): what the user is told."""

_OPENING = re.compile(rf'"{MESSAGE}"\s*:\s*"')
_WHOLE_CHARACTERS = re.compile(
    r"""(?: [^"\\]
          | \\u [dD][89abAB] [0-9a-fA-F]{2} \\u [dD][c-fC-F] [0-9a-fA-F]{2}                 # a pair of surrogates
          | \\u [dD][89abAB] [0-9a-fA-F]{2} (?= [^\\] | \\[^u] | \\u (?![dD][c-fC-F]) ..)   # half of one
          | \\u (?! [dD][89abAB]) [0-9a-fA-F]{4}
          | \\u (?= [0-9a-fA-F]{0,3} [^0-9a-fA-F])                                          # no number follows
          | \\ [^u]
        )*""",
    re.VERBOSE | re.DOTALL,
)
"""Of a JSON string that is cut anywhere: all that is complete."""

_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class NoActionParser:
    """A ToolParser around another one: what the pseudo-tool is called with is content, as it comes."""

    def __init__(self, parser: ToolParser, name: str, *, document: bool = False) -> None:
        """`document`: the arguments themselves are the content, not their `message`."""
        self._parser = parser
        self._name = name
        self._document = document
        self._answers = 0
        """Calls of the pseudo-tool so far: the others move up."""
        self._answering = -1
        self._message = _MessageReader()

    def push(self, text: str) -> Parsed:
        return self._sorted(self._parser.push(text))

    def finish(self) -> Parsed:
        return self._sorted(self._parser.finish())

    def _sorted(self, parsed: Parsed) -> Parsed:
        out = Parsed(parsed.content)
        for call in parsed.calls:
            if call.name == self._name:
                self._answering = call.index
                self._answers += 1
                self._message = _MessageReader()
            if call.index == self._answering:
                out.content += call.arguments if self._document else self._message.push(call.arguments)
            else:
                out.calls.append(ToolCallDelta(call.index - self._answers, call.id, call.name, call.arguments))
        return out


class _MessageReader:
    """`{"message": "…"}` in pieces, to the string's characters. Nothing comes of arguments without a message."""

    def __init__(self) -> None:
        self._json = ""
        self._in_string = False

    def push(self, text: str) -> str:
        self._json += text
        if not self._in_string:
            opening = _OPENING.search(self._json)
            if opening is None:
                return ""
            self._in_string, self._json = True, self._json[opening.end() :]
        match = _WHOLE_CHARACTERS.match(self._json)
        whole = match.group() if match else ""
        self._json = self._json[len(whole) :]
        return _unescaped(whole)


def _unescaped(text: str) -> str:
    """The characters of a JSON string; half a pair of surrogates becomes U+FFFD."""
    plain = _ESCAPE.sub(lambda match: _character(match[1]), text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(escaped: str) -> str:
    return chr(int(escaped[1:], 16)) if len(escaped) > 1 else _ESCAPED.get(escaped, escaped)
