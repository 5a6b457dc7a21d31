"""Messages with calls and results, adapted to what templates read."""

import dataclasses
from typing import Any

import pytest

from deployments.text.template_traits import TemplateTraits
from deployments.text.tool_messages import as_template_reads, as_text, in_parts, in_tool_calls, with_instructions

TRAITS = TemplateTraits(
    tools=True,
    system=True,
    content_parts=False,
    calls=True,
    object_arguments=True,
    short_ids=False,
    null_content=True,
)
ID = "call_0123456789abcdef01234567"


def call(arguments: Any = '{"city": "Roma"}', name: str = "weather", call_id: str = ID) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*made: dict[str, Any], content: Any = None) -> dict[str, Any]:
    return {"role": "assistant", "content": content, "tool_calls": list(made)}


RESULT = {"role": "tool", "tool_call_id": ID, "content": "22 °C"}


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"a": 1}', {"a": 1}),
        ("", {}),
        (None, {}),
        ({"a": 1}, {"a": 1}),
        ("not JSON", "not JSON"),
        ("[1]", "[1]"),
    ],
)
def test_arguments_become_an_object_where_they_are_one(arguments: Any, read: Any) -> None:
    [message] = as_template_reads([calls(call(arguments))], TRAITS)
    assert message["tool_calls"][0]["function"]["arguments"] == read


def test_arguments_stay_text_where_the_template_wants_text() -> None:
    message = calls(call())
    assert as_template_reads([message], dataclasses.replace(TRAITS, object_arguments=False)) == [message]


def test_ids_are_shortened_alike_in_call_and_result() -> None:
    traits = dataclasses.replace(TRAITS, short_ids=True)
    message, result = as_template_reads([calls(call()), RESULT], traits)
    assert message["tool_calls"][0]["id"] == result["tool_call_id"] == "f01234567"
    [odd] = as_template_reads([calls(call(call_id="c-1"))], traits)
    assert odd["tool_calls"][0]["id"] == "0000000c1"


def test_no_content_becomes_an_empty_one() -> None:
    [message] = as_template_reads([calls(call())], dataclasses.replace(TRAITS, null_content=False))
    assert message["content"] == ""


def test_what_came_in_is_not_changed() -> None:
    message = calls(call())
    as_template_reads([message], dataclasses.replace(TRAITS, short_ids=True, null_content=False))
    as_text([message])
    assert message == calls(call())


def test_a_function_call_becomes_a_tool_call_and_a_function_a_tool() -> None:
    function = {"name": "weather", "arguments": '{"city": "Roma"}'}
    first = {"role": "assistant", "content": "", "function_call": function}
    result = {"role": "function", "name": "weather", "content": "22 °C"}
    again = [{"role": "assistant", "content": "Once more.", "function_call": function}, result]
    called, answered, called_again, answered_again = in_tool_calls([first, result, *again])
    ids = [f"call_{place:024}" for place in (0, 2)]
    assert called == calls(call(call_id=ids[0]))
    assert answered == {**result, "role": "tool", "tool_call_id": ids[0]}
    assert called_again == calls(call(call_id=ids[1]), content="Once more.")
    assert answered_again["tool_call_id"] == ids[1]
    assert first == {"role": "assistant", "content": "", "function_call": function}, "what came in is not changed"


def test_a_result_that_names_its_function_alone_finds_its_call() -> None:
    [_, result] = in_tool_calls([calls(call()), {"role": "tool", "name": "weather", "content": "22 °C"}])
    assert result["tool_call_id"] == ID


def test_messages_of_the_newer_form_stay() -> None:
    messages = [{"role": "user", "content": "?"}, {**calls(call()), "function_call": None}, RESULT]
    assert in_tool_calls(messages) == messages


def test_as_text_a_call_is_the_json_that_was_asked_for_and_a_result_names_its_tool() -> None:
    told = as_text([{"role": "user", "content": "?"}, calls(call(), content="Let me look."), RESULT])
    assert told == [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": 'Let me look.\n\n{"name": "weather", "arguments": {"city": "Roma"}}'},
        {"role": "user", "content": "Result of weather: 22 °C"},
    ]


def test_as_text_results_in_a_row_are_one_message() -> None:
    told = as_text([calls(call(), call("{}", "time", "c2")), RESULT, {**RESULT, "tool_call_id": "c2", "content": "8"}])
    assert told == [
        {
            "role": "assistant",
            "content": '[{"name": "weather", "arguments": {"city": "Roma"}}, {"name": "time", "arguments": {}}]',
        },
        {"role": "user", "content": "Result of weather: 22 °C\nResult of time: 8"},
    ]


def test_a_result_without_its_call_is_still_said() -> None:
    assert as_text([RESULT]) == [{"role": "user", "content": "Result of the tool: 22 °C"}]


@pytest.mark.parametrize(
    ("messages", "system", "expected"),
    [
        ([("user", "q")], True, [("system", "I"), ("user", "q")]),
        ([("system", "s"), ("user", "q")], True, [("system", "s\n\nI"), ("user", "q")]),
        ([("user", "q"), ("user", "r")], False, [("user", "I\n\nq"), ("user", "r")]),
        ([], False, [("user", "I")]),
    ],
)
def test_instructions_stand_where_the_template_takes_them(
    messages: list[tuple[str, str]], system: bool, expected: list[tuple[str, str]]
) -> None:
    given = [{"role": role, "content": content} for role, content in messages]
    told = with_instructions(given, "I", system=system)
    assert [(message["role"], message["content"]) for message in told] == expected


def test_contents_become_lists_of_parts() -> None:
    part = [{"type": "image"}]
    assert in_parts([{"content": "a"}, {"content": part}, {"content": None}]) == [
        {"content": [{"type": "text", "text": "a"}]},
        {"content": part},
        {"content": None},
    ]


def test_instructions_join_a_list_of_parts() -> None:
    [told] = with_instructions([{"role": "user", "content": [{"type": "image"}]}], "I", system=False)
    assert told["content"] == [{"type": "text", "text": "I"}, {"type": "text", "text": "\n\n"}, {"type": "image"}]
