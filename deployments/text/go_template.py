"""Go's text/template, as far as LocalAI's prompt templates use it: parsed once, rendered many times.

Grammar and semantics: https://pkg.go.dev/text/template. Left out, and refused with their line: `define`, `template`,
`block`, `break`, `continue`, methods, and functions that aren't in `go_functions`.
"""

import ast
import re
from collections import ChainMap
from collections.abc import Iterator
from typing import Any, NamedTuple

from deployments.text.go_functions import FUNCTIONS, LAZY
from deployments.text.go_nodes import (
    Call,
    Condition,
    Dot,
    Expression,
    Field,
    Literal,
    Node,
    Pipeline,
    Print,
    Range,
    Scope,
    TemplateError,
    Text,
    Variable,
)


class GoTemplate:
    """One compiled template. Rendering is thread-safe."""

    def __init__(self, source: str, name: str = "template") -> None:
        """Raises TemplateError."""
        self.source = source
        self._body = _Parser(source, name).template()

    def render(self, data: Any) -> str:
        """`data` is what `.` and `$` are: a Struct or a mapping. Raises TemplateError."""
        out: list[str] = []
        scope = Scope(data, ChainMap({"$": data}))
        for node in self._body:
            node.render(scope, out)
        return "".join(out)


# ---- lexer -----------------------------------------------------------------------------------------------------------


class _Token(NamedTuple):
    kind: str
    text: str
    line: int
    spaced: bool = False
    """White space stands before it."""


_OPEN = re.compile(r"\{\{(-(?=\s))?")
_COMMENT = re.compile(r"\s*/\*.*?\*/(?P<trim>\s+-)?\s*\}\}", re.DOTALL)
_ACTION = re.compile(
    r"""(?P<close>(?:\s+(?P<trim>-)|\s*)\}\})
      | (?P<space>\s+)
      | (?P<string>"(?:[^"\\\n]|\\.)*" | `[^`]*`)
      | (?P<char>'(?:[^'\\\n]|\\.)+')
      | (?P<number>[+-]?(?:0[xX][0-9a-fA-F]+ | \d+(?:\.\d*)?(?:[eE][+-]?\d+)?))
      | (?P<variable>\$\w*)
      | (?P<field>\.[^\W\d]\w*)
      | (?P<operator>:= | [=|(),.])
      | (?P<word>[^\W\d]\w*)
    """,
    re.VERBOSE,
)
_BLANK = " \t\r\n"


def _tokens(source: str, name: str) -> Iterator[_Token]:
    position, trim = 0, False
    while True:
        opening = _OPEN.search(source, position)
        text = source[position : opening.start() if opening else None]
        text = text.lstrip(_BLANK) if trim else text
        text = text.rstrip(_BLANK) if opening and opening[1] else text
        if text:
            yield _Token("text", text, source.count("\n", 0, position) + 1)
        if not opening:
            return
        position = opening.end()
        if comment := _COMMENT.match(source, position):
            position, trim = comment.end(), bool(comment["trim"])
            continue
        start = position
        yield _Token("open", "{{", source.count("\n", 0, start) + 1)
        spaced = False
        while True:
            line = source.count("\n", 0, position) + 1
            token = _ACTION.match(source, position)
            if not token:
                found = (
                    repr(source[position : position + 1])
                    if position < len(source)
                    else "the end: an action is not closed"
                )
                raise TemplateError(f"{name}:{line}: unexpected {found}")
            position = token.end()
            kind = str(token.lastgroup)
            if kind != "space":
                yield _Token(kind, token[0], line, spaced)
            if kind == "close":
                trim = bool(token["trim"])
                break
            spaced = kind == "space"


# ---- parser ----------------------------------------------------------------------------------------------------------


class _Parser:
    """Recursive descent over the tokens; one method per construct."""

    def __init__(self, source: str, name: str) -> None:
        self._name = name
        self._tokens = list(_tokens(source, name))
        self._next = 0
        self._declared = ["$"]

    def template(self) -> list[Node]:
        body, end = self._nodes()
        if end is not None:
            raise self._error(f"unexpected {{{{{end.text}}}}}", end)
        return body

    def _nodes(self) -> tuple[list[Node], _Token | None]:
        """Nodes up to the next `else` or `end`, which is taken and returned, or up to the end of the template."""
        nodes: list[Node] = []
        while self._next < len(self._tokens):
            token = self._take()
            if token.kind == "text":
                nodes.append(Text(token.text))
            elif self._peek().text in ("else", "end"):
                return nodes, self._take()
            else:
                nodes.append(self._action())
        return nodes, None

    def _action(self) -> Node:
        if self._peek().text in ("if", "with", "range"):
            return self._block(self._take())
        pipeline = self._pipeline(targets=1)
        self._expect("close")
        return Print(pipeline)

    def _block(self, keyword: _Token) -> Node:
        """`if`, `with` or `range` up to its `end`. Its variables end with it, a range's before its `else`."""
        outside = len(self._declared)
        pipeline = self._pipeline(targets=2 if keyword.text == "range" else 1)
        self._expect("close")
        inside = outside if keyword.text == "range" else len(self._declared)
        body, end = self._nodes()
        del self._declared[inside:]
        otherwise = self._otherwise(keyword, end)
        del self._declared[outside:]
        if keyword.text == "range":
            return Range(pipeline, body, otherwise, self._where(keyword))
        return Condition(pipeline, keyword.text == "with", body, otherwise)

    def _otherwise(self, keyword: _Token, end: _Token | None) -> list[Node]:
        """What stands between `else` and `end`, both optional until here; `else if` has its `end` in common with us."""
        nodes: list[Node] = []
        if end is not None and end.text == "else":
            if self._peek().text == keyword.text != "range":
                return [self._block(self._take())]
            self._expect("close")
            nodes, end = self._nodes()
        if end is None or end.text != "end":
            raise self._error(f"{{{{{keyword.text}}}}} has no {{{{end}}}}", keyword)
        self._expect("close")
        return nodes

    def _pipeline(self, targets: int) -> Pipeline:
        names, declares = self._targets(targets)
        expression = self._command(None)
        while self._peek().text == "|":
            self._take()
            expression = self._command(expression)
        if declares:
            self._declared += names
        return Pipeline(expression, names, declares)

    def _targets(self, limit: int) -> tuple[list[str], bool]:
        """`$a :=`, `$a =` or, for range, `$a, $b :=`; without them, no names."""
        for marks in ((":=",), ("=",), (",", ":="), (",", "="))[: 2 * limit]:
            ahead = self._tokens[self._next : self._next + 2 * len(marks)]
            if tuple(token.text for token in ahead[1::2]) != marks or {t.kind for t in ahead[::2]} != {"variable"}:
                continue
            self._next += len(ahead)
            if marks[-1] == "=":
                for variable in ahead[::2]:
                    self._check_declared(variable)
            return [variable.text for variable in ahead[::2]], marks[-1] == ":="
        return [], False

    def _command(self, piped: Expression | None) -> Expression:
        """A function with its arguments, the last of them what was piped into it, or a single operand."""
        first = self._peek()
        if first.kind == "word" and first.text not in _CONSTANTS:
            self._take()
            arguments = []
            while not self._at_end_of_command():
                arguments.append(self._operand())
            return self._call(first, arguments if piped is None else [*arguments, piped])
        operand = self._operand()
        if piped is not None or not self._at_end_of_command():
            raise self._error(f"{first.text} is not a function", first)
        return operand

    def _operand(self) -> Expression:
        token = self._take()
        operand: Expression
        match token.kind, token.text:
            case (("string" | "char" | "number"), _):
                operand = Literal(self._constant(token))
            case "variable", name:
                self._check_declared(token)
                operand = Variable(name)
            case "field", name:
                operand = Field(Dot(), name[1:], self._where(token))
            case "word", name:
                operand = Literal(_CONSTANTS[name]) if name in _CONSTANTS else self._call(token, [])
            case "operator", ".":
                operand = Dot()
            case "operator", "(":
                operand = self._pipeline(targets=0)
                self._expect("operator", ")")
            case _:
                raise self._error(f"unexpected {token.text.strip()}", token)
        while self._peek().kind == "field" and not self._peek().spaced:
            field = self._take()
            operand = Field(operand, field.text[1:], self._where(field))
        return operand

    def _call(self, name: _Token, arguments: list[Expression]) -> Call:
        if name.text not in FUNCTIONS and name.text not in LAZY:
            raise self._error(f"{name.text} is not supported", name)
        if name.text in LAZY and not arguments:
            raise self._error(f"{name.text} needs an argument", name)
        return Call(name.text, arguments, self._where(name))

    def _constant(self, token: _Token) -> Any:
        text = token.text
        if token.kind == "number":
            return int(text, 0) if "x" in text.lower() else float(text) if re.search("[.eE]", text) else int(text)
        if text[0] == "`":
            return text[1:-1]
        if unknown := set(re.findall(r"\\(.)", text)) - set(_ESCAPES):
            raise self._error(f"unknown escape \\{min(unknown)} in {text}", token)
        try:
            value: str = ast.literal_eval(text)  # the escapes that are left mean the same in Python
            return ord(value) if token.kind == "char" else value
        except (SyntaxError, ValueError, TypeError) as error:
            raise self._error(f"bad literal {text}: {error}", token) from error

    def _check_declared(self, variable: _Token) -> None:
        if variable.text not in self._declared:
            raise self._error(f"undefined variable {variable.text}", variable)

    def _at_end_of_command(self) -> bool:
        return self._peek().kind == "close" or self._peek().text in ("|", ")")

    def _peek(self) -> _Token:
        return self._tokens[self._next]  # the lexer sees to it that every action is closed

    def _take(self) -> _Token:
        self._next += 1
        return self._tokens[self._next - 1]

    def _expect(self, kind: str, text: str | None = None) -> None:
        token = self._take()
        if token.kind != kind or (text is not None and token.text != text):
            raise self._error(f"unexpected {token.text.strip()}", token)

    def _where(self, token: _Token) -> str:
        return f"{self._name}:{token.line}"

    def _error(self, problem: str, token: _Token) -> TemplateError:
        return TemplateError(f"{self._where(token)}: {problem}")


_CONSTANTS: dict[str, Any] = {"true": True, "false": False, "nil": None}
_ESCAPES = "abfnrtv\\\"'01234567xuU"
