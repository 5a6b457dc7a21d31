"""Tools as a constraint, on a vocabulary of single bytes."""

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLTokenizer

from deployments.backends.base import Generate, Sampling
from deployments.config_blocks import FunctionConfig, GrammarConfig, GrammarTrigger
from deployments.errors import EngineError, InvalidRequest, UnsupportedParameter
from deployments.text.constraint import TokenConstraint, grammar_of
from deployments.text.function_grammar import Constraint, calls_constraint, no_action_tool
from deployments.text.function_lark import FORMS, MAX_CALLS

TOKENIZER = LLTokenizer("byte")

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str, parameters: Any = ..., **fields: Any) -> dict[str, Any]:
    given = {} if parameters is ... else {"parameters": parameters}
    return {"type": "function", "function": {"name": name, **given, **fields}}


TOOLS = [tool("get_weather", CITY), tool("now")]

WEATHER = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
NOW = '{"name":"now","arguments":{}}'
ANSWER = '{"name": "answer", "arguments": {"message": "hi"}}'


def follows(constraint: Constraint, text: str) -> bool:
    """Whether the whole text may be the output."""
    request = Generate(tokens=[0], sampling=Sampling(), json_schema=constraint.json_schema, lark=constraint.lark)
    grammar = grammar_of(request)
    assert grammar is not None
    matcher = TokenConstraint(TOKENIZER, grammar)
    try:
        matcher.replay(text.encode())
    except EngineError:
        return False
    return not matcher.forbidden(TOKENIZER.vocab_size)[TOKENIZER.eos_token]


def required(tools: list[dict[str, Any]], *, name: str | None = None, parallel: bool = False) -> Constraint:
    return calls_constraint(tools, tool_name=name, required=True, parallel=parallel, config=FunctionConfig())


def auto(*tools: dict[str, Any], parallel: bool = True, config: FunctionConfig | None = None) -> Constraint:
    return calls_constraint(
        tools or TOOLS, tool_name=None, required=False, parallel=parallel, config=config or FunctionConfig()
    )


def with_grammar(*, parallel: bool = True, **options: Any) -> Constraint:
    return auto(parallel=parallel, config=FunctionConfig(grammar=GrammarConfig(**options)))


# ---- required and named choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "one", "several"),
    [
        (WEATHER, True, True),
        (NOW, True, True),
        (f"[{WEATHER}, {NOW}]", False, True),
        (f"[{WEATHER},\n {NOW}\n]", False, True),
        ("[" + ",".join([NOW] * MAX_CALLS) + "]", False, True),
        ("[" + ",".join([NOW] * (MAX_CALLS + 1)) + "]", False, False),
        ("[]", False, False),
        (ANSWER, False, False),
        ("It is sunny.", False, False),
        ('{"name": "now", "arguments": {"city": "Rome"}}', False, False),
        ('{"name": "get_weather", "arguments": {}}', False, False),
        ('{"name": "get_weather", "arguments": {"city": "Rome", "country": "Italy"}}', False, False),
        ('{"name": "now"}', False, False),
        ('{"arguments": {}, "name": "now"}', False, False),
    ],
)
def test_required_is_one_call_or_several(text: str, one: bool, several: bool) -> None:
    assert follows(required(TOOLS), text) is one
    assert follows(required(TOOLS, parallel=True), text) is several


def test_a_named_tool_is_called_once() -> None:
    constraint = required(TOOLS, name="now", parallel=True)
    assert [follows(constraint, text) for text in (NOW, WEATHER, f"[{NOW}]")] == [True, False, False]
    assert constraint.no_action is None


def test_a_named_tool_that_is_not_there() -> None:
    with pytest.raises(InvalidRequest, match="nowhere") as caught:
        required(TOOLS, name="nowhere")
    assert caught.value.param == "tool_choice"


def test_the_config_does_not_change_what_is_required() -> None:
    config = FunctionConfig(
        function_name_key="function", grammar=GrammarConfig(prefix="<x>", mixed_mode=True, schema_type="llama3.1")
    )
    constraint = calls_constraint(TOOLS, tool_name=None, required=True, parallel=False, config=config)
    assert follows(constraint, WEATHER)


@pytest.mark.parametrize(
    ("parameters", "strict", "accepted", "refused"),
    [
        (..., False, "{}", '{"a": 1}'),
        (None, False, "{}", '{"a": 1}'),
        (None, True, "{}", '{"a": 1}'),
        ({}, False, "{}", '{"a": 1}'),
        ({"type": "object"}, False, "{}", '{"a": 1}'),
        ({"type": "object", "properties": {}}, False, "{}", '{"a": 1}'),
        ({"type": "object", "properties": {}, "required": []}, False, "{}", '{"a": 1}'),
        ({"type": "object"}, True, '{"a": 1}', "1"),
        ({}, True, '{"a": 1}', "[]"),
        ({"type": "object", "additionalProperties": True}, False, '{"a": 1}', "1"),
        ({"type": "object", "required": ["a"]}, False, '{"a": 1}', "{}"),
        ({"properties": {"a": {"const": 1}}}, False, '{"a": 1}', '"a"'),
        ({"properties": {"a": {"const": 1}}}, True, '{"a": 1, "b": 2}', '"a"'),
        ({"properties": {"a": {"const": 1}}}, False, "{}", '{"a": 1, "b": 2}'),
        ({"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"a": {"const": 1}}}}}, False, '{"a": 1}', '{"a": 2}'),
    ],
)
def test_parameters(parameters: Any, strict: bool, accepted: str, refused: str) -> None:
    constraint = required([tool("f", parameters, strict=strict)])
    assert follows(constraint, f'{{"name": "f", "arguments": {accepted}}}')
    assert not follows(constraint, f'{{"name": "f", "arguments": {refused}}}')


def definitions(value: int, **extra: Any) -> dict[str, Any]:
    """Every kind of local reference; each tool means its own."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "properties": {
            "a": {"$ref": "#/$defs/x"},
            "b": {"$ref": "#/definitions/y"},
            "c": {"$ref": "#anchor"},
            "d": {"$ref": "#/properties/a"},
            "again": {"$ref": "#"},
        },
        "$defs": {"x": {"const": value}, "z": {"$anchor": "anchor", "const": value}},
        "definitions": {"y": {"const": value}},
        **extra,
    }


def test_references_of_every_tool_find_their_own_targets() -> None:
    own_id = {"$id": "https://example.com/schema.json"}
    constraint = required([tool("one", definitions(1, **own_id)), tool("two", definitions(2, **own_id))])
    for name, value, other in (("one", 1, 2), ("two", 2, 1)):
        for key in "abcd":
            assert follows(constraint, f'{{"name": "{name}", "arguments": {{"again": {{"{key}": {value}}}}}}}')
            assert not follows(constraint, f'{{"name": "{name}", "arguments": {{"again": {{"{key}": {other}}}}}}}')


@pytest.mark.parametrize("name", ["a.b", "a/b", "a~b", "a:b", "a-b_C9", "$defs"])
def test_names(name: str) -> None:
    constraint = required([tool(name, CITY), tool("f")])
    assert follows(constraint, f'{{"name": "{name}", "arguments": {{"city": ""}}}}')


def test_the_schema_is_one_to_jsonschema_too() -> None:
    constraint = required([tool("one", definitions(1)), tool("two", definitions(2))], parallel=True)
    assert constraint.json_schema is not None
    jsonschema.Draft202012Validator.check_schema(constraint.json_schema)
    jsonschema.validate({"name": "two", "arguments": {"b": 2}}, constraint.json_schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"name": "two", "arguments": {"b": 1}}, constraint.json_schema)


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, UnsupportedParameter, "uniqueItems"),
        ({"type": "object", "if": {}, "then": {}}, UnsupportedParameter, "`if`, `then`"),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, InvalidRequest, "look-around"),
        ({"properties": {"a": {"$ref": "#/$defs/nowhere"}}}, InvalidRequest, "nowhere"),
        ({"properties": {"a": {"type": "strin"}}}, InvalidRequest, "strin"),
        ({"type": "string"}, InvalidRequest, "object"),
    ],
)
@pytest.mark.parametrize("config", [FunctionConfig(), FunctionConfig(grammar=GrammarConfig(mixed_mode=True))])
@pytest.mark.parametrize("is_required", [True, False])
def test_what_cannot_be_followed_is_named(
    parameters: dict[str, Any], error: type[InvalidRequest], words: str, config: FunctionConfig, is_required: bool
) -> None:
    tools = [tool("good", CITY), tool("bad", parameters)]
    with pytest.raises(error) as caught:
        calls_constraint(tools, tool_name=None, required=is_required, parallel=True, config=config)
    assert caught.value.param == "tools[1].function.parameters"
    assert words in caught.value.message


# ---- LocalAI's functions grammar -------------------------------------------------------------------------------------


def test_auto_is_a_call_of_a_tool_or_of_the_pseudo_tool() -> None:
    constraint = auto()
    assert constraint.no_action == "answer"
    assert constraint.lark is None
    texts = (WEATHER, NOW, ANSWER, f"[{NOW}]", "hi")
    assert [follows(constraint, text) for text in texts] == [True, True, True, False, False]


def test_the_pseudo_tool() -> None:
    config = FunctionConfig(no_action_function_name="say", no_action_description_name="Talk.")
    offered = no_action_tool(TOOLS, config)
    assert offered is not None
    assert (offered["function"]["name"], offered["function"]["description"]) == ("say", "Talk.")
    constraint = auto(config=config)
    assert constraint.no_action == "say"
    assert follows(constraint, ANSWER.replace("answer", "say"))
    taken = auto(tool("answer"), tool("answer_"))
    assert taken.no_action == "answer__"
    assert follows(taken, ANSWER.replace("answer", "answer__")) and not follows(taken, ANSWER)


@pytest.mark.parametrize(
    ("tools", "config"),
    [(TOOLS, FunctionConfig(disable_no_action=True)), ([*TOOLS, tool("f", strict=True)], FunctionConfig())],
    ids=["disabled", "strict"],
)
def test_without_the_pseudo_tool(tools: list[dict[str, Any]], config: FunctionConfig) -> None:
    constraint = auto(*tools, config=config)
    assert constraint.no_action is None
    assert follows(constraint, NOW) and not follows(constraint, ANSWER)


BOTH, BOTH_LINES = f"[{WEATHER}, {NOW}]", f"[{WEATHER},\n{NOW}]"
PROSE = "I see {this} and [that](there)."
BEFORE, AFTER = f"Let me see:\n{WEATHER}", f"Let me see: {WEATHER}\nDone."
BEFORE_BOTH = f"Let me see: {BOTH}"
HERMES, HERMES_AFTER_TEXT = f"<tool_call>\n{WEATHER}", f"Well. <tool_call>\n{WEATHER}"
HERMES_BOTH = f"<tool_call>\n{BOTH}"
TAGGED, TAGGED_TWICE = "<function=now>{}</function>", "<function=now>{}</function>\n<function=now>{}</function>"
TAGGED_AFTER_TEXT = 'Well. <function=get_weather>{"city": "Rome"}</function>'
HERMES_TRIGGER = [GrammarTrigger(word="<tool_call>")]


@pytest.mark.parametrize(
    ("options", "accepted", "refused"),
    [
        ({"parallel_calls": True}, [NOW, BOTH, BOTH_LINES], [PROSE, HERMES]),
        ({"parallel_calls": True, "disable_parallel_new_lines": True}, [NOW, ANSWER, BOTH], [BOTH_LINES]),
        ({"prefix": "<tool_call>\n"}, [HERMES], [WEATHER, PROSE, HERMES_AFTER_TEXT, HERMES_BOTH]),
        ({"prefix": "<tool_call>\n", "parallel_calls": True}, [HERMES, HERMES_BOTH], [WEATHER]),
        ({"mixed_mode": True}, [PROSE, "", WEATHER, BEFORE], [AFTER, BEFORE_BOTH, 'No: {"name": "nobody"']),
        ({"mixed_mode": True, "parallel_calls": True}, [PROSE, BEFORE, BOTH, BEFORE_BOTH], [AFTER]),
        ({"mixed_mode": True, "expect_strings_after_json": True}, [PROSE, BEFORE, AFTER], ['{"name": "nobody"']),
        ({"mixed_mode": True, "no_mixed_free_string": True}, [PROSE, WEATHER, BEFORE], ['{"a": 1}', "[1]"]),
        ({"mixed_mode": True, "prefix": "<tool_call>\n"}, [PROSE, HERMES, HERMES_AFTER_TEXT], ["<tool_call>\nno"]),
        (
            {"mixed_mode": True, "no_mixed_free_string": True, "prefix": "<tool_call>\n"},
            [PROSE, HERMES],
            ["<b>", "<tool_call>\nno"],
        ),
        ({"triggers": HERMES_TRIGGER}, [PROSE, f"<tool_call>{NOW}"], ["<tool_call>no"]),
        ({"triggers": HERMES_TRIGGER, "prefix": "<tool_call>\n"}, [PROSE, HERMES, HERMES_AFTER_TEXT], [HERMES_BOTH]),
        ({"triggers": HERMES_TRIGGER, "prefix": "\n"}, [PROSE, HERMES_AFTER_TEXT], [f"<tool_call>{NOW}"]),
        ({"schema_type": "json"}, [WEATHER, ANSWER], [TAGGED]),
        ({"schema_type": "llama3.1"}, [TAGGED], [WEATHER, TAGGED_TWICE, "<function=nobody>{}</function>"]),
        ({"schema_type": "llama3.1", "parallel_calls": True}, [TAGGED, TAGGED_TWICE], [PROSE]),
        ({"schema_type": "llama3.1", "mixed_mode": True}, [PROSE, TAGGED, TAGGED_AFTER_TEXT], [TAGGED_TWICE]),
        ({"properties_order": "arguments,name"}, ['{"arguments": {}, "name": "now"}'], [NOW]),
        (
            {"properties_order": "arguments, name", "mixed_mode": True},
            [PROSE, 'Well: {"arguments": {}, "name": "now"}'],
            ['{"arguments": {}, "name": "nobody"}'],
        ),
    ],
    ids=str,
)
def test_options_of_the_grammar(options: dict[str, Any], accepted: list[str], refused: list[str]) -> None:
    constraint = with_grammar(**options)
    assert constraint.no_action == "answer"
    assert [text for text in accepted if not follows(constraint, text)] == []
    assert [text for text in refused if follows(constraint, text)] == []


def test_a_request_may_want_one_call_only() -> None:
    assert not follows(with_grammar(parallel_calls=True, parallel=False), f"[{NOW}]")


def test_keys_of_the_config() -> None:
    config = FunctionConfig(function_name_key="function", function_arguments_key="with")
    assert follows(auto(config=config), '{"function": "now", "with": {}}')
    misplaced = FunctionConfig(grammar=GrammarConfig(function_arguments_key="parameters"))
    assert follows(auto(config=misplaced), '{"name": "now", "parameters": {}}')


def test_properties_are_ordered_in_arguments_too() -> None:
    pair = {"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 2}}, "required": ["a", "b"]}
    config = FunctionConfig(grammar=GrammarConfig(properties_order="b"))
    constraint = auto(tool("f", pair), config=config)
    assert follows(constraint, '{"name": "f", "arguments": {"b": 2, "a": 1}}')


def test_every_form_of_the_config_exists() -> None:
    assert set(FORMS) == {"json", "llama3.1"}


@pytest.mark.parametrize("mixed_mode", [True, False])
def test_random_calls_are_valid(mixed_mode: bool) -> None:
    tools = [tool("one", definitions(1)), tool("get_weather", CITY)]
    parameters = {one["function"]["name"]: one["function"].get("parameters", {}) for one in tools}
    config = FunctionConfig(disable_no_action=True, grammar=GrammarConfig(mixed_mode=mixed_mode))
    constraint = auto(*tools, config=config)
    for seed in range(5):
        request = Generate(tokens=[0], sampling=Sampling(), json_schema=constraint.json_schema, lark=constraint.lark)
        grammar = grammar_of(request)
        assert grammar is not None
        matcher = TokenConstraint(TOKENIZER, grammar)
        opening = b'{"name"'
        matcher.replay(opening)
        rng, text = np.random.default_rng(seed), bytearray(opening)
        while not matcher.finished and len(text) < 2000:
            logits = rng.normal(size=TOKENIZER.vocab_size).astype(np.float32)
            logits[list(b'"}')] += 2
            matcher.mask(logits)
            if (token := int(logits.argmax())) == TOKENIZER.eos_token:
                break
            matcher.accept(token)
            text.append(token)
        call = json.loads(text.decode(errors="replace"))
        jsonschema.validate(call["arguments"], parameters[call["name"]])
