"""What a parsed Go template is made of: nodes that render, and expressions that have a value."""

from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.errors import ConfigInvalid
from deployments.text.go_functions import FUNCTIONS, LAZY, Struct, to_text, truth


class TemplateError(ConfigInvalid):
    """A template that doesn't parse, or that fails on its data. The message opens with `name:line:`."""


@dataclass(slots=True)
class Scope:
    dot: Any
    variables: ChainMap[str, Any]

    def block(self, dot: Any) -> "Scope":
        """Inside if, with and range: variables declared there end there."""
        return Scope(dot, self.variables.new_child())


class Node(Protocol):
    def render(self, scope: Scope, out: list[str]) -> None: ...


class Expression(Protocol):
    def value(self, scope: Scope) -> Any: ...


@dataclass(slots=True)
class Text:
    text: str

    def render(self, scope: Scope, out: list[str]) -> None:
        out.append(self.text)


@dataclass(slots=True)
class Print:
    pipeline: "Pipeline"

    def render(self, scope: Scope, out: list[str]) -> None:
        value = self.pipeline.value(scope)
        if not self.pipeline.targets:
            out.append("<no value>" if value is None else to_text(value))


@dataclass(slots=True)
class Condition:
    """`if` and `with`: the latter makes the value the dot."""

    pipeline: "Pipeline"
    rebind: bool
    body: list[Node]
    otherwise: list[Node]

    def render(self, scope: Scope, out: list[str]) -> None:
        inner = scope.block(scope.dot)
        value = self.pipeline.value(inner)
        if truth(value) and self.rebind:
            inner.dot = value
        for node in self.body if truth(value) else self.otherwise:
            node.render(inner, out)


@dataclass(slots=True)
class Range:
    pipeline: "Pipeline"
    body: list[Node]
    otherwise: list[Node]
    where: str

    def render(self, scope: Scope, out: list[str]) -> None:
        pairs = self._pairs(self.pipeline.bare(scope))
        for key, item in pairs:
            inner = scope.block(item)
            inner.variables.update(zip(self.pipeline.targets, (key, item)[-len(self.pipeline.targets) :], strict=False))
            for node in self.body:
                node.render(inner, out)
        if not pairs:
            for node in self.otherwise:
                node.render(scope.block(scope.dot), out)

    def _pairs(self, value: Any) -> list[tuple[Any, Any]]:
        match value:
            case None:
                return []
            case Mapping() if not isinstance(value, Struct):
                return sorted(value.items())
            case list() | tuple():
                return list(enumerate(value))
            case int() if not isinstance(value, bool):
                return [(i, i) for i in range(value)]
        raise TemplateError(f"{self.where}: range can't iterate over {to_text(value)}")


@dataclass(slots=True)
class Literal:
    constant: Any

    def value(self, scope: Scope) -> Any:
        return self.constant


@dataclass(slots=True)
class Dot:
    def value(self, scope: Scope) -> Any:
        return scope.dot


@dataclass(slots=True)
class Variable:
    name: str

    def value(self, scope: Scope) -> Any:
        return scope.variables[self.name]


@dataclass(slots=True)
class Field:
    """`of.name`. A map without the key, and anything below it, has no value (None)."""

    of: Expression
    name: str
    where: str

    def value(self, scope: Scope) -> Any:
        of = self.of.value(scope)
        if of is None:
            return None
        if not isinstance(of, Mapping) or (isinstance(of, Struct) and self.name not in of):
            kind = "this template's data" if isinstance(of, Struct) else to_text(of)
            raise TemplateError(f"{self.where}: can't evaluate field {self.name} in {kind}")
        return of.get(self.name)


@dataclass(slots=True)
class Call:
    name: str
    arguments: list[Expression]
    where: str

    def value(self, scope: Scope) -> Any:
        if self.name in LAZY:
            return self._lazy(scope)
        values = [argument.value(scope) for argument in self.arguments]
        try:
            return FUNCTIONS[self.name](*values)
        except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise TemplateError(f"{self.where}: error calling {self.name}: {error}") from error

    def _lazy(self, scope: Scope) -> Any:
        value = None
        for argument in self.arguments:
            value = argument.value(scope)
            if truth(value) is LAZY[self.name]:
                break
        return value


@dataclass(slots=True)
class Pipeline:
    expression: Expression
    targets: list[str]
    """Variables on the left of `:=` or `=`."""
    declares: bool

    def bare(self, scope: Scope) -> Any:
        return self.expression.value(scope)

    def value(self, scope: Scope) -> Any:
        value = self.bare(scope)
        for name in self.targets:
            holder = scope.variables if self.declares else next(m for m in scope.variables.maps if name in m)
            holder[name] = value
        return value
