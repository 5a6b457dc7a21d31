"""A config's `function:` block reads tool calls as LocalAI does."""

import json

import pytest

from deployments.config_blocks import FunctionConfig, Replacement
from deployments.errors import ConfigInvalid
from deployments.text.json_calls import JsonNotation
from deployments.text.localai_functions import LocalAIFunctions


def parse(config: FunctionConfig, answer: str) -> tuple[str, list[tuple[str, str]]]:
    parser = LocalAIFunctions(config).parser([])
    held = [parser.push(character) for character in answer]
    assert not any(one.content or one.calls for one in held), "the whole answer is needed"
    parsed = parser.finish()
    assert [call.index for call in parsed.calls] == list(range(len(parsed.calls)))
    assert len({call.id for call in parsed.calls}) == len(parsed.calls)
    return parsed.content, [(call.name, call.arguments) for call in parsed.calls]


def test_objects_anywhere_in_the_text_are_calls() -> None:
    answer = 'Sure {"name": "add", "arguments": {"y": 3, "x": 5}} junk } { [{"name": "sub", "arguments": {}}] {"a": 1}'
    assert parse(FunctionConfig(), answer) == ("", [("add", '{"y":3,"x":5}'), ("sub", "{}")])


def test_newlines_in_strings_are_let_pass() -> None:
    (_, arguments), = parse(FunctionConfig(), '{"name": "say", "arguments": {"text": "a\nb"}}')[1]  # fmt: skip
    assert json.loads(arguments) == {"text": "a\nb"}


def test_an_object_without_name_or_arguments_is_no_call() -> None:
    answer = '{"name": "add"} {"arguments": {}} {"name": 1, "arguments": {}}'
    assert parse(FunctionConfig(), answer) == (answer, [])


def test_arguments_as_a_text_are_taken_as_they_are() -> None:
    assert parse(FunctionConfig(), '{"name": "add", "arguments": "{\\"x\\": 5}"}')[1] == [("add", '{"x": 5}')]


def test_keys_of_a_call() -> None:
    config = FunctionConfig(function_name_key="function", function_arguments_key="parameters")
    assert parse(config, '{"function": "add", "parameters": {"x": 5}}')[1] == [("add", '{"x":5}')]


def test_every_match_of_every_response_regex_is_a_call() -> None:
    config = FunctionConfig(
        response_regex=[r"<(?P<name>\w+)>(?P<arguments>.*?)</\w+>", r"call (?P<name>\w+) (?P<arguments>\{.*?\})"]
    )
    answer = '<add>{"x": 5}</add> <sub>{ "y": 3 }</sub> call mul {"z": 1}'
    assert parse(config, answer)[1] == [("add", '{"x": 5}'), ("sub", '{ "y": 3 }'), ("mul", '{"z": 1}')]


def test_groups_of_a_response_regex_bear_the_configs_keys() -> None:
    config = FunctionConfig(response_regex=[r"(?P<function>\w+)\((?P<arguments>.*)\)"], function_name_key="function")
    assert parse(config, 'add({"x": 5})')[1] == [("add", '{"x": 5}')]


def test_a_call_without_an_arguments_group_has_none() -> None:
    assert parse(FunctionConfig(response_regex=[r"run (?P<name>\w+)"]), "run it")[1] == [("it", "{}")]


def test_the_first_json_regex_that_matches_wins() -> None:
    config = FunctionConfig(json_regex_match=[r"(?s)<tool_call>(.*?)</tool_call>", r"(?s)<tool_call>(.*)"])
    call = '{"name": "add", "arguments": {"x": 5}}'
    both = f"<tool_call>\n{call}\n</tool_call>\n<tool_call>{call}</tool_call> {call}"
    assert parse(config, both)[1] == [("add", '{"x":5}')] * 2
    assert parse(config, f"<tool_call>{call}")[1] == [("add", '{"x":5}')]


def test_arguments_by_argument_regex() -> None:
    config = FunctionConfig(
        response_regex=[r"(?s)<function=(?P<name>\w+)>(?P<arguments>.*?)</function>"],
        argument_regex=[r"<(?P<k>\w+)>(?P<v>.*?)</\w+>"],
        argument_regex_key_name="k",
        argument_regex_value_name="v",
    )
    assert parse(config, "<function=add><x>5</x><y>a b</y></function>")[1] == [("add", '{"x":"5","y":"a b"}')]


def test_replacements_in_gos_notation() -> None:
    config = FunctionConfig(
        replace_function_results=[
            Replacement(key=r"(?s)^[^{\[]*"),
            Replacement(key=r"'([^']*?)'", value='"${1}"'),
            Replacement(key=r"(?P<price>\d+) dollars", value="$$$price"),
        ]
    )
    answer = "I call {'name': 'buy', 'arguments': {'for': '5 dollars'}}"
    assert parse(config, answer) == ("", [("buy", '{"for":"$5"}')])
    assert parse(config, "no call for 5 dollars") == ("no call for 5 dollars", []), "only calls are looked for there"


def test_the_answer_itself_is_cleaned() -> None:
    config = FunctionConfig(replace_llm_results=[Replacement(key=r"(?s)<scratchpad>.*?</scratchpad>")])
    assert parse(config, '<scratchpad>{"name": "a", "arguments": {}}</scratchpad>Hello') == ("Hello", [])


def test_what_is_captured_is_the_content_beside_calls() -> None:
    config = FunctionConfig(
        capture_llm_results=[r"(?s)<none>(.*)</none>", r"(?s)<scratchpad>(.*?)</scratchpad>"],
        replace_llm_results=[Replacement(key=r"(?s)<scratchpad>.*?</scratchpad>")],
    )
    call = '{"name": "add", "arguments": {}}'
    assert parse(config, f"<scratchpad> I add. </scratchpad>{call}") == ("I add.", [("add", "{}")])
    assert parse(config, "<scratchpad> I add. </scratchpad>Done.") == ("Done.", [])


def test_another_notation_finds_the_calls_in_the_cleaned_text() -> None:
    config = FunctionConfig(replace_function_results=[Replacement(key="tool", value="call")])
    notation = JsonNotation(marks_of_calls={"<call>": "</call>"})
    functions = LocalAIFunctions(config, notation)
    parser = functions.parser([])
    parser.push('<tool>{"name": "a", "arguments": {}}')
    parsed = parser.finish()
    assert functions.marks == {"<call>", "</call>"}
    assert [(call.name, call.arguments) for call in parsed.calls] == [("a", "{}")]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            FunctionConfig(response_regex=["("]),
            r"response_regex\[0\]: expected a regular expression, got '\('",
        ),
        (FunctionConfig(response_regex=["x"]), r"function.response_regex\[0\]: expected a group \(\?P<name>…\)"),
        (FunctionConfig(json_regex_match=["a(b)", "x"]), r"function.json_regex_match\[1\]: expected a group, \(…\)"),
        (FunctionConfig(capture_llm_results=["x"]), r"function.capture_llm_results\[0\]: expected a group"),
        (
            FunctionConfig(argument_regex=["(?P<key>x)"]),
            r"argument_regex\[0\]: expected a group \(\?P<value>…\)",
        ),
        (
            FunctionConfig(replace_llm_results=[Replacement(key="[")]),
            r"replace_llm_results\[0\]: expected a regular",
        ),
    ],
)
def test_an_operators_mistake_is_named(config: FunctionConfig, message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        LocalAIFunctions(config)
