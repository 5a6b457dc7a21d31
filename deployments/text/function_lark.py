"""LocalAI's functions grammar as llguidance's Lark: calls beside free text, prefixes, triggers, `<function=…>`.

The forms are those of LocalAI's grammar for llama.cpp (localai.md §4.2), except that free text can't hold a call: there
text may be anything at all, so that its grammar rules nothing.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from deployments.config_blocks import GrammarConfig
from deployments.text.json_schema import WHITESPACE, Schema, guidance_schema

MAX_CALLS = 16
"""In one answer. Small models like to go on calling."""

BLANKS = r"[\x20\x09]{1,16}"


@dataclass(frozen=True, slots=True)
class Function:
    """A tool that may be called."""

    name: str
    param: str
    """Where its schema stands in the request."""
    parameters: Schema
    """Of its arguments. It has an `$id`, so that its references find their targets wherever it is put."""


@dataclass(frozen=True, slots=True)
class CallKeys:
    """Keys of the JSON object that is a call."""

    name: str
    arguments: str
    order: tuple[str, ...] = ()
    """What of `properties_order` is known; the name goes first else."""

    @property
    def in_order(self) -> list[str]:
        keys = [self.name, self.arguments]
        return sorted(keys, key=lambda key: self.order.index(key) if key in self.order else len(self.order))


@dataclass(frozen=True, slots=True)
class CallForm:
    """How one call is written, in Lark."""

    opening: str
    """A terminal: what a call begins with, whatever function is called."""
    starts: str
    """Characters, as in a regex's brackets, with which the answer begins if it is a call."""
    rest: Sequence[str]
    """The rest of the call, one alternative per function. `arguments_i` stands for the arguments of function i."""
    brackets: tuple[str, str]
    """Around several calls."""
    comma: str
    """Between several calls."""


def functions_lark(functions: Sequence[Function], keys: CallKeys, grammar: GrammarConfig, *, array: bool) -> str:
    """The grammar of an answer that calls functions, or says something where `grammar` lets it.

    `array`: it may call several.
    """
    form = FORMS[grammar.schema_type or "json"](functions, keys)
    schemas = [json.dumps(guidance_schema(function.parameters, function.param)) for function in functions]
    rules = {
        **_start(form, grammar, array=array),
        **_calls(form, array=array),
        "OPENING": form.opening,
        "rest": " | ".join(form.rest),
        **{f"arguments_{i}": f"%json {schema}" for i, schema in enumerate(schemas)},
        "WS": f"/{WHITESPACE}/",
        "GAP": f"/{BLANKS if grammar.disable_parallel_new_lines else WHITESPACE}/",
    }
    return "".join(f"{name}: {rule}\n" for name, rule in rules.items())


def _json_form(functions: Sequence[Function], keys: CallKeys) -> CallForm:
    """`{"name": "get_weather", "arguments": {…}}`"""
    first, second = keys.in_order
    rest = []
    for i, function in enumerate(functions):
        values = {keys.name: _json_literal(function.name), keys.arguments: f"arguments_{i}"}
        rest.append(
            f'WS? ":" WS? {values[first]} WS? "," WS? {_json_literal(second)} WS? ":" WS? {values[second]} WS? "}}"'
        )
    return CallForm(f'"{{" WS? {_json_literal(first)}', "{[", rest, brackets=('"[" GAP?', 'GAP? "]"'), comma='","')


def _tagged_form(functions: Sequence[Function], keys: CallKeys) -> CallForm:
    """`<function=get_weather>{…}</function>`: Llama 3.1's, which has no keys. Several stand one after another."""
    del keys
    rest = [f'{_literal(function.name + ">")} arguments_{i} "</function>"' for i, function in enumerate(functions)]
    return CallForm(_literal("<function="), "<", rest, brackets=("", ""), comma="")


FORMS: Mapping[str, Callable[[Sequence[Function], CallKeys], CallForm]] = {
    "json": _json_form,
    "llama3.1": _tagged_form,
}
"""`function.grammar.schema_type` → how calls are written."""


def _calls(form: CallForm, *, array: bool) -> dict[str, str]:
    """Rules `calls`, and `more`: what may follow the first call where its bracket is lost in free text."""
    if not array:
        return {"calls": "OPENING rest"}
    opening, closing = form.brackets
    following = f"(GAP? {form.comma} GAP? OPENING rest){{0,{MAX_CALLS - 1}}}"
    calls = f"{opening} OPENING rest {following} {closing}"
    return {
        "calls": f"OPENING rest | {calls}" if opening else calls,
        "more": f"{following} ({closing})?" if closing else following,
    }


def _start(form: CallForm, grammar: GrammarConfig, *, array: bool) -> dict[str, str]:
    """The rule `start`, and those of free text."""
    prefix = grammar.prefix or ""
    calls = f"{_literal(prefix)} calls" if prefix else "calls"
    if not grammar.triggers and not grammar.mixed_mode:
        return {"start": calls}
    if not grammar.triggers and grammar.no_mixed_free_string:
        starts = re.escape(prefix[:1] or form.starts)
        return {"start": f"PROSE | {calls}", "PROSE": rf"/\s{{0,16}}[^\s{starts}](?s:.*)/"}
    heads = _heads(grammar, prefix, array=array)
    lazy = {f"head_{i}[lazy]": f"TEXT {trigger}" for i, (trigger, _) in enumerate(heads)}
    spoken = {"spoken": " | ".join(f"head_{i} {call}" for i, (_, call) in enumerate(heads))}
    several = f"spoken{{0,{MAX_CALLS}}}" if array else "spoken?"
    start = f"{several} text" if grammar.expect_strings_after_json else "spoken | text"
    return {"start": start, **spoken, **lazy, "text": "TEXT", "TEXT": "/(?s:.*)/"}


def _heads(grammar: GrammarConfig, prefix: str, *, array: bool) -> list[tuple[str, str]]:
    """What free text ends with where a call begins, and the rest of that call, or of several."""
    if grammar.triggers:
        return [(_literal(one.word), _after(one.word, prefix)) for one in grammar.triggers]
    if prefix:
        return [(_literal(prefix), "calls")]
    return [("OPENING", "rest more" if array else "rest")]


def _after(trigger: str, prefix: str) -> str:
    """Calls after a trigger's word, which may be the beginning of the prefix or stand before it."""
    rest = prefix.removeprefix(trigger)
    return f"{_literal(rest)} calls" if rest else "calls"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _json_literal(text: str) -> str:
    return _literal(json.dumps(text, ensure_ascii=False))
