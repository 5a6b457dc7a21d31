"""What a request's tools ask of the model: the table of decisions."""

import json
from typing import Any

import jsonschema
import pytest

from deployments.backends.base import ChatRequest
from deployments.config import ModelConfig
from deployments.config_blocks import FunctionConfig, GrammarConfig
from deployments.errors import UnsupportedParameter
from deployments.text.tool_choice import Output, ToolPlan, tool_plan
from deployments.text.tool_formats import format_for
from deployments.text.tool_parsing import Parsed

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DOCUMENT = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
GRAMMAR_OFF = FunctionConfig(grammar=GrammarConfig(disable=True))


def tool(name: str, strict: bool = False, **function: Any) -> dict[str, Any]:
    own = {"name": name, "description": f"Does {name}.", "parameters": CITY, **({"strict": True} if strict else {})}
    return {"type": "function", "function": own | function}


WEATHER, TIME, STRICT = tool("weather"), tool("time"), tool("strict", strict=True)


def plan(
    *tools: dict[str, Any], function: FunctionConfig | None = None, native: bool = False, **fields: Any
) -> ToolPlan | None:
    config = ModelConfig(name="m", function=function or FunctionConfig())
    request = ChatRequest(messages=[], tools=list(tools or (WEATHER, TIME)), **fields)
    return tool_plan(request, config.function, format_for(config, None), native=native)


def made(*tools: dict[str, Any], **fields: Any) -> ToolPlan:
    one = plan(*tools, **fields)
    assert one is not None
    return one


def names(one: ToolPlan) -> list[str]:
    return [entry["function"]["name"] for entry in one.tools]


def read(one: ToolPlan, text: str) -> tuple[str, list[tuple[str, Any]]]:
    parser = one.parser()
    pieces: list[Parsed] = [*map(parser.push, text), parser.finish()]
    calls: dict[int, list[str]] = {}
    for call in (call for piece in pieces for call in piece.calls):
        name_and_arguments = calls.setdefault(call.index, [call.name, ""])
        name_and_arguments[1] += call.arguments
    return "".join(piece.content for piece in pieces), [(name, json.loads(text)) for name, text in calls.values()]


@pytest.mark.parametrize(
    ("fields", "output"),
    [
        ({}, Output.LOCALAI),
        ({"native": True}, Output.FREE),
        ({"function": GRAMMAR_OFF}, Output.FREE),
        ({"tool_choice": "required"}, Output.CALLS),
        ({"tool_choice": "required", "native": True}, Output.CALLS),
        ({"tool_choice": "required", "function": GRAMMAR_OFF}, Output.CALLS),
        ({"tool_choice": "required", "json_schema": DOCUMENT}, Output.CALLS),
        ({"json_schema": DOCUMENT}, Output.CALLS_OR_DOCUMENT),
        ({"json_schema": DOCUMENT, "native": True}, Output.CALLS_OR_DOCUMENT),
        ({"grammar": 'root ::= "x"'}, Output.FREE),
    ],
)
def test_the_table(fields: dict[str, Any], output: Output) -> None:
    assert made(**fields).output is output


@pytest.mark.parametrize("fields", [{}, {"native": True}, {"function": GRAMMAR_OFF}])
def test_a_strict_tool_is_never_free(fields: dict[str, Any]) -> None:
    assert made(WEATHER, STRICT, **fields).output is Output.CALLS_OR_ANSWER


def test_no_tools_and_none_leave_the_request_alone() -> None:
    assert plan(tool_choice="none") is None
    request = ChatRequest(messages=[])
    assert tool_plan(request, FunctionConfig(), format_for(ModelConfig(name="m"), None), native=True) is None


def test_a_grammar_and_a_required_call_contradict() -> None:
    with pytest.raises(UnsupportedParameter) as refused:
        plan(tool_choice="required", grammar='root ::= "x"')
    assert refused.value.param == "grammar"


def test_a_named_tool_is_the_only_one() -> None:
    one = made(tool_choice="required", tool_name="time")
    assert names(one) == ["time"]
    schema = one.constraint.json_schema
    jsonschema.validate({"name": "time", "arguments": {"city": "Roma"}}, schema)
    for wrong in ({"name": "weather", "arguments": {"city": "Roma"}}, {"name": "time", "arguments": {}}):
        assert not jsonschema.Draft202012Validator(schema).is_valid(wrong)


def test_required_asks_for_calls_alone() -> None:
    one = made(tool_choice="required")
    assert names(one) == ["weather", "time"] and one.answer_tool is None
    calls = [{"name": name, "arguments": {"city": "Roma"}} for name in names(one)]
    jsonschema.validate(calls, one.constraint.json_schema)
    assert not jsonschema.Draft202012Validator(one.constraint.json_schema).is_valid([])
    assert read(one, json.dumps(calls)) == ("", [("weather", {"city": "Roma"}), ("time", {"city": "Roma"})])


def test_without_parallel_calls_there_is_no_array() -> None:
    one = made(tool_choice="required", parallel_tool_calls=False)
    call = {"name": "time", "arguments": {"city": "Roma"}}
    jsonschema.validate(call, one.constraint.json_schema)
    assert not jsonschema.Draft202012Validator(one.constraint.json_schema).is_valid([call])


@pytest.mark.parametrize("fields", [{}, {"native": True}])
def test_a_strict_tool_may_be_left_alone(fields: dict[str, Any]) -> None:
    one = made(STRICT, **fields)
    assert names(one) == ["strict", "answer"]
    answer = {"name": "answer", "arguments": {"message": "no need"}}
    jsonschema.validate(answer, one.constraint.json_schema)
    assert read(one, json.dumps(answer)) == ("no need", [])


def test_a_strict_tool_must_be_called_where_the_operator_wants_no_answer_tool() -> None:
    assert names(made(STRICT, function=FunctionConfig(disable_no_action=True))) == ["strict"]


def test_a_document_comes_out_as_content() -> None:
    one = made(WEATHER, tool("answer"), json_schema=DOCUMENT)
    assert names(one) == ["weather", "answer", "answer_"]
    text = '{"name": "answer_", "arguments": {"n": 3}}'
    jsonschema.validate(json.loads(text), one.constraint.json_schema)
    assert not jsonschema.Draft202012Validator(one.constraint.json_schema).is_valid(
        {"name": "answer_", "arguments": {"n": "3"}}
    )
    assert read(one, text) == ('{"n": 3}', [])
    assert read(one, '{"name": "weather", "arguments": {"city": "Roma"}}')[1] == [("weather", {"city": "Roma"})]


def test_what_a_document_can_not_be_is_said_of_the_response_format() -> None:
    with pytest.raises(UnsupportedParameter, match="uniqueItems") as refused:
        plan(json_schema={"type": "array", "uniqueItems": True})
    assert refused.value.param == "response_format"


def test_localais_grammar_has_its_no_action_tool() -> None:
    function = FunctionConfig(no_action_function_name="reply", no_action_description_name="say it")
    one = made(function=function)
    assert names(one) == ["weather", "time", "reply"]
    assert one.tools[-1]["function"]["description"] == "say it"
    answer = {"name": "reply", "arguments": {"message": "hello"}}
    jsonschema.validate(answer, one.constraint.json_schema)
    assert read(one, json.dumps(answer)) == ("hello", [])
    assert read(one, '{"name": "time", "arguments": {"city": "Roma"}}') == ("", [("time", {"city": "Roma"})])


def test_localais_grammar_without_its_no_action_tool() -> None:
    assert names(made(function=FunctionConfig(disable_no_action=True))) == ["weather", "time"]


def test_localais_grammar_with_a_prefix_is_read_by_that_prefix() -> None:
    one = made(function=FunctionConfig(grammar=GrammarConfig(prefix="<tool_call>\n", mixed_mode=True)))
    assert one.constraint.lark is not None and one.constraint.json_schema is None
    call = '<tool_call>\n{"name": "%s", "arguments": {"%s": "Roma"}}'
    assert read(one, "So: " + call % ("time", "city")) == ("So:", [("time", {"city": "Roma"})])
    assert read(one, call % ("answer", "message")) == ("Roma", [])


def test_free_text_is_read_in_the_models_format() -> None:
    one = made(function=GRAMMAR_OFF)
    assert one.constraint.json_schema is None and one.constraint.lark is None
    assert read(one, "just words") == ("just words", [])
    assert read(one, '{"name": "time", "arguments": {"city": "Roma"}}') == ("", [("time", {"city": "Roma"})])


def test_the_instructions_list_what_can_be_called_and_how() -> None:
    text = made(
        tool("f", description="Größe", parameters=None), function=FunctionConfig(disable_no_action=True)
    ).instructions
    assert text.splitlines() == [
        "You can call these tools:",
        '{"name": "f", "description": "Größe"}',
        'To call one, answer with this JSON alone: {"name": <its name>, "arguments": {<its parameters>}}',
        "To call several, answer with a JSON array of such objects.",
    ]
    assert "array" not in made(parallel_tool_calls=False).instructions
    assert made(function=GRAMMAR_OFF).instructions.endswith("If none of them helps, answer as usual.")
