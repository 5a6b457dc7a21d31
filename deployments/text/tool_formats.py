"""THE table of tool-call formats, and which of them a model uses.

Sources: the chat templates and model cards of the families, and for LocalAI's presets its pkg/functions/parse.go.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from deployments.config import ModelConfig
from deployments.config_blocks import FunctionConfig, GrammarConfig, XmlFormat
from deployments.errors import ConfigInvalid
from deployments.text.json_calls import JsonNotation
from deployments.text.localai_functions import LocalAIFunctions
from deployments.text.named_calls import NamedNotation
from deployments.text.pythonic_calls import PythonicNotation
from deployments.text.tool_parsing import Notation, ToolParser
from deployments.text.xml_calls import XmlNotation


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a model writes tool calls."""

    name: str
    notation: Notation
    forced: JsonNotation = field(default_factory=JsonNotation)
    """Of output that is constrained to bare JSON."""

    @property
    def marks(self) -> frozenset[str]:
        """Texts that the parser must see, and that are control tokens in some vocabularies."""
        return self.notation.marks

    def parser(self, tools: Sequence[Mapping[str, Any]], *, forced: bool = False) -> ToolParser:
        """For one answer. `forced`: the output is constrained to bare JSON, a call or an array of calls."""
        return (self.forced if forced else self.notation).parser(tools)


_PYTHON_TAG = {"<|python_tag|>": ""}
_TOOL_CALL = {"<tool_call>": "</tool_call>"}

_NOTATIONS: Mapping[str, Notation] = {
    # ---- a JSON object with name and arguments ----
    "json": JsonNotation(),
    "hermes": JsonNotation(marks_of_calls=_TOOL_CALL),
    "llama3-json": JsonNotation(marks_of_calls=_PYTHON_TAG),
    "granite": JsonNotation(marks_of_calls={"<|tool_call|>": "<|/tool_call|>", **_TOOL_CALL}),
    "granite-20b": JsonNotation(marks_of_calls={"<function_call>": ""}),
    "apriel-1.5": JsonNotation(marks_of_calls={"<tool_calls>": "</tool_calls>"}),
    "nemotron": JsonNotation(marks_of_calls={"<TOOLCALL>": "</TOOLCALL>"}),
    "internlm2": JsonNotation(marks_of_calls={"<|action_start|><|plugin|>": "<|action_end|>"}),
    "command-r": JsonNotation(
        marks_of_calls={"Action:": ""}, bare=False, name_keys=("tool_name",), arguments_keys=("parameters",)
    ),
    "command-r7b": JsonNotation(
        marks_of_calls={"<|START_ACTION|>": "<|END_ACTION|>"},
        bare=False,
        name_keys=("tool_name",),
        arguments_keys=("parameters",),
    ),
    # ---- a name between marks, and arguments as JSON ----
    "mistral": NamedNotation(
        openings=("[TOOL_CALLS]",),
        head=r"\s*(?P<name>[\w.\-]+)\s*(?:\[CALL_ID\]\s*\w+\s*)?(?:\[ARGS\]\s*)?",
        inside=("[CALL_ID]", "[ARGS]"),
        json=JsonNotation(),
    ),
    "deepseek": NamedNotation(
        openings=("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>"),
        # V3 and R1 name the type first and fence the arguments, V3.1 does neither.
        head=r"\s*(?:<｜tool▁call▁begin｜>)?\s*(?:function<｜tool▁sep｜>)?(?P<name>[\w.\-]+)\s*"
        r"(?:<｜tool▁sep｜>\s*)?(?:```(?:json)?\s*)?",
        inside=("<｜tool▁sep｜>",),
        closings=("<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
    ),
    "kimi-k2": NamedNotation(
        openings=("<|tool_calls_section_begin|>", "<|tool_call_begin|>"),
        head=r"\s*(?:<\|tool_call_begin\|>)?\s*(?:functions\.)?(?P<name>[\w.\-]+?)(?::\d+)?\s*"
        r"<\|tool_call_argument_begin\|>\s*",
        inside=("<|tool_call_argument_begin|>",),
        closings=("<|tool_call_end|>", "<|tool_calls_section_end|>"),
    ),
    "functionary-v2": NamedNotation(
        openings=("<|from|>assistant\n<|recipient|>",),
        recipient_end="\n<|content|>",
        closings=("<|stop|>",),
        starts_open=True,
        talks=frozenset({"all"}),
    ),
    "functionary-v3.1": NamedNotation(
        openings=("<function=",), head=r"(?P<name>[\w.\-]+)>\s*", closings=("</function>",)
    ),
    "functionary-v3.2": NamedNotation(
        openings=(">>>",),
        recipient_end="\n",
        starts_open=True,
        talks=frozenset({"all"}),
    ),
    # ---- tags ----
    "qwen3-coder": XmlNotation(
        XmlFormat(
            scope_start="<tool_call>",
            tool_start="<function=",
            tool_sep=">",
            key_start="<parameter=",
            key_val_sep=">",
            val_end="</parameter>",
            tool_end="</function>",
            scope_end="</tool_call>",
        )
    ),
    "glm-4.5": XmlNotation(
        XmlFormat(
            tool_start="<tool_call>",
            key_start="<arg_key>",
            key_val_sep="</arg_key>",
            key_val_sep2="<arg_value>",
            val_end="</arg_value>",
            tool_end="</tool_call>",
        )
    ),
    "minimax-m2": XmlNotation(
        XmlFormat(
            scope_start="<minimax:tool_call>",
            tool_start='<invoke name="',
            tool_sep='">',
            key_start='<parameter name="',
            key_val_sep='">',
            val_end="</parameter>",
            tool_end="</invoke>",
            scope_end="</minimax:tool_call>",
        )
    ),
    "seed-oss": XmlNotation(
        XmlFormat(
            scope_start="<seed:tool_call>",
            tool_start="<function=",
            tool_sep=">",
            key_start="<parameter=",
            key_val_sep=">",
            val_end="</parameter>",
            tool_end="</function>",
            scope_end="</seed:tool_call>",
        )
    ),
    # ---- Python ----
    "pythonic": PythonicNotation(marks_of_calls={"<|python_tag|>": "", "<|python_start|>": "<|python_end|>"}),
    "lfm2": PythonicNotation(marks_of_calls={"<|tool_call_start|>": "<|tool_call_end|>"}),
    "olmo3": PythonicNotation(marks_of_calls={"<function_calls>": "</function_calls>"}),
}

FORMATS: Mapping[str, ToolFormat] = {name: ToolFormat(name, notation) for name, notation in _NOTATIONS.items()}
"""Values of a config's `tool_format`."""

ALIASES: Mapping[str, str] = {
    "functionary": "functionary-v3.1",
    "qwen3.5": "qwen3-coder",
    "xiaomi-mimo": "hermes",
}
"""LocalAI's names of `function.xml_format_preset` that aren't ours."""

TEMPLATE_MARKS: Sequence[tuple[str, str]] = (
    ("<｜tool▁call▁begin｜>", "deepseek"),
    ("<|tool_call_begin|>", "kimi-k2"),
    ("<|recipient|>", "functionary-v2"),
    (">>>all", "functionary-v3.2"),
    ("<seed:tool_call>", "seed-oss"),
    ("<minimax:tool_call>", "minimax-m2"),
    ("<parameter=", "qwen3-coder"),
    ("<arg_key>", "glm-4.5"),
    ("<function=", "functionary-v3.1"),
    ("[TOOL_CALLS]", "mistral"),
    ("<|START_ACTION|>", "command-r7b"),
    ("directly_answer", "command-r"),
    ("<|tool_call_start|>", "lfm2"),
    ("<|tool_list_start|>", "lfm2"),
    ("<TOOLCALL>", "nemotron"),
    ("<function_calls>", "olmo3"),
    ("<|python_start|>", "pythonic"),
    ("<|action_start|>", "internlm2"),
    ("<|tool_call|>", "granite"),
    ("<|start_of_role|>", "granite"),
    ("<tool_calls>", "apriel-1.5"),
    ("<tool_call>", "hermes"),
    ("<function_call>", "granite-20b"),
    ("<|python_tag|>", "llama3-json"),
)
"""What a chat template holds → the format. The first that is there counts; none: bare JSON."""


_WHOLE_ANSWER = (
    "response_regex", "json_regex_match", "capture_llm_results", "replace_llm_results", "replace_function_results",
)  # fmt: skip
"""Keys of the `function:` block that are about the whole answer."""


def format_for(config: ModelConfig, chat_template: str | None) -> ToolFormat:
    """As `tool_format` says, else the `function:` block, else the templates.

    Raises ConfigInvalid naming the key that is wrong.
    """
    function = config.function
    forced = _with_keys(JsonNotation(), function)
    if config.tool_format:
        return replace(_named("tool_format", config.tool_format), forced=forced)
    tagged = _tagged(function)
    found = tagged or _by_marks(config, chat_template)
    loose = tagged is None and _has_json_anywhere(function.grammar, marked=found.name != "json")
    if loose or any(getattr(function, key) for key in _WHOLE_ANSWER):
        return ToolFormat("function", LocalAIFunctions(function, tagged and tagged.notation), forced)
    if isinstance(found.notation, JsonNotation):
        return ToolFormat(found.name, _with_keys(found.notation, function), forced)
    return replace(found, forced=forced)


def _named(key: str, name: str) -> ToolFormat:
    if name not in FORMATS:
        raise ConfigInvalid(f"{key}: expected one of {', '.join(FORMATS)}; got {name!r}")
    return FORMATS[name]


def _tagged(function: FunctionConfig) -> ToolFormat | None:
    """The format that the `function:` block describes or names."""
    if form := function.xml_format:
        return ToolFormat("xml_format", XmlNotation(form) if form.key_start else _json_between(form))
    if preset := function.xml_format_preset:
        return _named("function.xml_format_preset", ALIASES.get(preset, preset))
    if function.grammar.schema_type == "llama3.1":
        return FORMATS["functionary-v3.1"]
    return None


def _has_json_anywhere(grammar: GrammarConfig, *, marked: bool) -> bool:
    """Whether JSON of calls may come in the midst of text, and no known mark before it."""
    if grammar.mixed_mode and not grammar.prefix:
        return True
    return bool(grammar.mixed_mode or grammar.prefix or grammar.triggers) and not marked


def _json_between(form: XmlFormat) -> NamedNotation:
    """Of tags with JSON arguments."""
    return NamedNotation(
        openings=(form.tool_start,),
        head=rf"\s*(?P<name>[\w.\-]+)\s*{re.escape(form.tool_sep)}\s*",
        closings=tuple(filter(None, (form.tool_end, form.last_tool_end, form.scope_end))),
    )


def _by_marks(config: ModelConfig, chat_template: str | None) -> ToolFormat:
    """What the templates and the grammar's own literals show."""
    own, grammar = config.template, config.function.grammar
    shown = [own.function, own.chat_message, own.chat, chat_template, grammar.prefix]
    texts = "\n".join([*filter(None, shown), *(trigger.word for trigger in grammar.triggers or ())])
    return FORMATS[next((name for mark, name in TEMPLATE_MARKS if mark in texts), "json")]


def _with_keys(notation: JsonNotation, function: FunctionConfig) -> JsonNotation:
    """Reads the config's own keys of a call, too."""
    names = *notation.name_keys, function.function_name_key
    arguments = *notation.arguments_keys, function.function_arguments_key, function.grammar.function_arguments_key
    return replace(notation, name_keys=tuple(filter(None, names)), arguments_keys=tuple(filter(None, arguments)))
