"""A model's own Jinja chat template, in the environment that transformers gives it (utils/chat_template_utils.py)."""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from deployments.errors import ConfigInvalid, InvalidRequest


class JinjaTemplate:
    """Compiled once. Rendering is thread-safe and sandboxed: a template comes with the weights, from anywhere."""

    def __init__(self, source: str) -> None:
        """Raises ConfigInvalid."""
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._template = environment.from_string(source)
        except TemplateSyntaxError as error:
            raise ConfigInvalid(
                f"the model's own chat template, line {error.lineno}: {error.message}; "
                "set template.chat and template.chat_message to replace it"
            ) from error
        self.names = frozenset(name.name for name in tree.find_all(nodes.Name))
        """Variables that it speaks of, its own and those that it is given."""
        self.fields = frozenset(
            {constant.value for constant in tree.find_all(nodes.Const) if isinstance(constant.value, str)}
            | {attribute.attr for attribute in tree.find_all(nodes.Getattr)}
        )
        """Strings and attributes in its expressions: what it may ask of a message."""

    def render(self, variables: dict[str, Any]) -> str:
        """Raises InvalidRequest in the template's own words when it refuses these messages, or fails on them."""
        try:
            return self._template.render(variables)
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError) as error:
            raise InvalidRequest(f"the model's chat template refuses these messages: {error}").at("messages") from error


class _Generation(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's tokens for training; here it is its body."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> ImmutableSandboxedEnvironment:
    extensions: list[str | type[Extension]] = [_Generation, "jinja2.ext.loopcontrols"]
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.filters["tojson"] = _tojson
    environment.globals |= _GLOBALS
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)


_GLOBALS: dict[str, Callable[..., Any]] = {"raise_exception": _raise_exception, "strftime_now": _strftime_now}
