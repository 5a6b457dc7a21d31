"""Tool calls as a config's `function:` block says: LocalAI's regular expressions and keys (localai.md §2.3, §4.3)."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from deployments.backends.base import ToolCallDelta
from deployments.config_blocks import FunctionConfig, Replacement
from deployments.errors import ConfigInvalid
from deployments.text.deltas import add_calls
from deployments.text.tool_parsing import Notation, Parsed, ToolParser, new_call_id

_GO_GROUP = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")
"""A group's number or name in the text that replaces a match, or an escaped dollar."""
_DECODER = json.JSONDecoder(strict=False)
"""Takes newlines in strings as they are."""
_BRACKET = re.compile(r"[{\[]")


class LocalAIFunctions:
    """The Notation of a `function:` block. A call is what the block says, whichever tools the model was given."""

    def __init__(self, config: FunctionConfig, calls: Notation | None = None) -> None:
        """`calls` finds the calls where no regular expression of the block does; None: JSON objects anywhere are.

        Raises ConfigInvalid naming the key of a regular expression that is none, or lacks a group.
        """
        self.marks: frozenset[str] = calls.marks if calls else frozenset()
        self._calls = calls
        self._name = config.function_name_key or "name"
        self._arguments = config.function_arguments_key or config.grammar.function_arguments_key or "arguments"
        self._captures = _patterns("capture_llm_results", config.capture_llm_results, 1)
        self._replace_answer = _replacements("replace_llm_results", config.replace_llm_results)
        self._replace_calls = _replacements("replace_function_results", config.replace_function_results)
        self._json = _patterns("json_regex_match", config.json_regex_match, 1)
        self._responses = _patterns("response_regex", config.response_regex, self._name)
        self._argument_key = config.argument_regex_key_name or "key"
        self._argument_value = config.argument_regex_value_name or "value"
        groups = self._argument_key, self._argument_value
        self._argument_patterns = _patterns("argument_regex", config.argument_regex, *groups)

    def parser(self, tools: Sequence[Mapping[str, Any]]) -> ToolParser:
        return _WholeAnswer(self, tools)

    def parse(self, answer: str, tools: Sequence[Mapping[str, Any]]) -> Parsed:
        """The calls, and as content what is captured beside them; without calls the answer."""
        captured = next((match[1] for match in _searched(self._captures, answer)), "") or ""
        answer = _replaced(answer, self._replace_answer)
        text = _replaced(answer, self._replace_calls)
        if self._calls and not (self._responses or self._json):
            parsed = _parsed(self._calls.parser(tools), text)
        else:
            parsed = Parsed(calls=[_call(i, *found) for i, found in enumerate(self._found(text))])
        return Parsed(captured.strip() if parsed.calls else answer, parsed.calls)

    def _found(self, text: str) -> Iterator[tuple[str, str]]:
        """Name and arguments of each call."""
        if self._responses:
            matches = (match for pattern in self._responses for match in pattern.finditer(text))
            yield from (self._by_groups(match) for match in matches if match[self._name])
            return
        by_pattern = ([match[1] or "" for match in pattern.finditer(text)] for pattern in self._json)
        for part in next(filter(None, by_pattern), [text]):
            for value in _objects(part):
                name, arguments = value.get(self._name), value.get(self._arguments)
                if isinstance(name, str) and self._arguments in value:
                    yield name, arguments if isinstance(arguments, str) else _compact(arguments)

    def _by_groups(self, match: re.Match[str]) -> tuple[str, str]:
        return match[self._name], self._arguments_in(match.groupdict().get(self._arguments) or "") or "{}"

    def _arguments_in(self, text: str) -> str:
        """JSON text of what `argument_regex` finds, or the text as it is."""
        if not self._argument_patterns:
            return text
        matches = (match for pattern in self._argument_patterns for match in pattern.finditer(text))
        return _compact({match[self._argument_key]: match[self._argument_value] for match in matches})


class _WholeAnswer:
    """Holds all text back until its end."""

    def __init__(self, functions: LocalAIFunctions, tools: Sequence[Mapping[str, Any]]) -> None:
        self._functions = functions
        self._tools = tools
        self._answer: list[str] = []

    def push(self, text: str) -> Parsed:
        self._answer.append(text)
        return Parsed()

    def finish(self) -> Parsed:
        return self._functions.parse("".join(self._answer), self._tools)


def _patterns(key: str, patterns: Iterable[str] | None, *groups: int | str) -> list[re.Pattern[str]]:
    """Raises ConfigInvalid."""
    compiled = []
    for i, text in enumerate(patterns or ()):
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise ConfigInvalid(
                f"function.{key}[{i}]: expected a regular expression, got {text!r} ({error})"
            ) from error
        for group in groups:
            if group not in pattern.groupindex and group not in range(1, pattern.groups + 1):
                wanted = "a group, (…)" if isinstance(group, int) else f"a group (?P<{group}>…)"
                raise ConfigInvalid(f"function.{key}[{i}]: expected {wanted}, got {text!r}")
        compiled.append(pattern)
    return compiled


def _replacements(key: str, replacements: Iterable[Replacement] | None) -> list[tuple[re.Pattern[str], str]]:
    given = list(replacements or ())
    return list(zip(_patterns(key, [one.key for one in given]), [one.value for one in given], strict=True))


def _searched(patterns: Iterable[re.Pattern[str]], text: str) -> Iterator[re.Match[str]]:
    return filter(None, (pattern.search(text) for pattern in patterns))


def _replaced(text: str, replacements: Iterable[tuple[re.Pattern[str], str]]) -> str:
    for pattern, value in replacements:
        text = pattern.sub(partial(_expanded, value), text)
    return text


def _expanded(value: str, match: re.Match[str]) -> str:
    """`$1`, `${1}` and `${name}` are groups, `$$` a dollar, as in Go."""

    def group(reference: re.Match[str]) -> str:
        if reference[1]:
            return "$"
        name = reference[2] or reference[3]
        known = {**match.groupdict(), **{str(i): match[i] for i in range(len(match.groups()) + 1)}}
        return known.get(name) or ""

    return _GO_GROUP.sub(group, value)


def _parsed(parser: ToolParser, text: str) -> Parsed:
    """A whole text, parsed."""
    parsed, rest = parser.push(text), parser.finish()
    calls: list[ToolCallDelta] = []
    add_calls(calls, [*parsed.calls, *rest.calls])
    return Parsed(parsed.content + rest.content, calls)


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects anywhere in a text, one after another, and those in arrays."""
    at = 0
    while match := _BRACKET.search(text, at):
        try:
            value, at = _DECODER.raw_decode(text, match.start())
        except (ValueError, RecursionError):
            at = match.end()
            continue
        yield from (one for one in (value if isinstance(value, list) else [value]) if isinstance(one, dict))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _call(index: int, name: str, arguments: str) -> ToolCallDelta:
    return ToolCallDelta(index, new_call_id(), name, arguments)
