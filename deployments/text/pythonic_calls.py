"""Tool calls as calls in Python, `[f(x=1), g()]`: Llama 3.2 and 4, LFM2, OLMo 3."""

import ast
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.text.json_calls import JsonCalls, JsonNotation
from deployments.text.nesting import Nesting
from deployments.text.tool_parsing import Reading, parameters_of

_BEFORE = re.compile(r"\s*\[?\s*")
_BETWEEN = re.compile(r"[\s,;\]]*")
_NAME = re.compile(r"[\w.\-]*")
_JSONS = {"true": True, "false": False, "null": None}
"""Constants as JSON writes them → as Python does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonicNotation(JsonNotation):
    """Calls with literals as arguments, in a list or behind a mark one after another. JSON is read, too."""

    def parser(self, tools: Sequence[Mapping[str, Any]]) -> "PythonicCalls":
        return PythonicCalls(self, tools)


class PythonicCalls(JsonCalls):
    """A call in Python comes whole: only then can its arguments be made JSON."""

    def __init__(self, notation: PythonicNotation, tools: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(notation, tools)
        self._parameters = parameters_of(tools)

    def _calls_here(self, *, bare: bool) -> Reading[bool]:
        start, calls = self._at, self._calls
        if (yield from super()._calls_here(bare=bare)):
            return True
        self._at = start
        opening = yield from self._run(_BEFORE)
        if "[" in opening or not bare:
            while (yield from self._python_call(bare)):
                yield from self._run(_BETWEEN)
                self._drop()
        self._at = 0
        return self._calls > calls

    def _python_call(self, bare: bool) -> Reading[bool]:
        name = yield from self._run(_NAME)
        if (bare and name not in self._parameters) or not name or (yield from self._peek()) != "(":
            return False
        nesting, start, read = Nesting("\"'"), self._at, self._at
        while (end := nesting.end(self._text, read)) is None:
            read = len(self._text)
            if not (yield from self._more()):
                return False
        arguments = _arguments(self._text[start:end], list(self._parameters.get(name, ())))
        if arguments is None:
            return False
        self._at = end
        self._announce(name)
        self._argue(arguments)
        return True


def _arguments(text: str, parameters: Sequence[str]) -> str | None:
    """JSON text of the arguments in brackets, `(1, b=2)`, those without a name in the order of the tool's schema.

    None: they are no literals.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a backslash that escapes nothing
            call = ast.parse(f"f{text}", mode="eval").body
        if not isinstance(call, ast.Call):
            return None
        values = {name: _literal(value) for name, value in zip(parameters, call.args, strict=False)}
        values |= {keyword.arg or "": _literal(keyword.value) for keyword in call.keywords}
        if "" in values or len(call.args) > len(parameters):
            return None
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _literal(node: ast.expr) -> Any:
    """Raises ValueError for what is none."""
    match node:
        case ast.Constant(value=str() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _JSONS:
            return _JSONS[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_literal(item) for item in items]
        case ast.Dict(keys=keys, values=values) if all(keys):
            return {str(_literal(key)): _literal(value) for key, value in zip(keys, values, strict=True) if key}
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
    raise ValueError(f"no literal: {ast.dump(node)}")
