"""The table of tool-call formats: recorded answers of each, cut everywhere, and how a model's tool_format is found."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from deployments import config_file
from deployments.backends.base import ToolCallDelta
from deployments.config import ModelConfig
from deployments.config_blocks import FunctionConfig, GrammarConfig, GrammarTrigger, Replacement, Template, XmlFormat
from deployments.errors import ConfigInvalid
from deployments.text.deltas import add_calls
from deployments.text.tool_formats import ALIASES, FORMATS, TEMPLATE_MARKS, ToolFormat, format_for

FIXTURES = Path(__file__).parents[3] / "fixtures" / "tool_calls"
TOOLS = yaml.safe_load((FIXTURES / "tools.yaml").read_text())
RECORDINGS = [
    recording
    for path in sorted(FIXTURES.glob("*.yaml"))
    if path.name != "tools.yaml"
    for recording in yaml.safe_load(path.read_text())
]

LOCALAI = format_for(ModelConfig(name="x", function=FunctionConfig(response_regex=["(?P<name>x)"])), None)

recorded = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda recording: recording["family"])


def parse(tool_format: ToolFormat, pieces: Iterable[str], *, forced: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """Content, and name and arguments of each call, after checking what must hold of every stream."""
    parser = tool_format.parser(TOOLS, forced=forced)
    parsed = [*map(parser.push, pieces), parser.finish()]
    content = "".join(one.content for one in parsed)
    deltas = [call for one in parsed for call in one.calls]
    calls: list[ToolCallDelta] = []
    add_calls(calls, deltas)
    assert [call.index for call in calls] == list(range(len(calls)))
    assert [delta.index for delta in deltas] == sorted(delta.index for delta in deltas)
    firsts = [delta for delta in deltas if delta.name]
    assert [delta.index for delta in firsts] == [call.index for call in calls], "the name comes first and once"
    assert all(re.fullmatch(r"call_[0-9a-f]{24}", delta.id) for delta in firsts)
    assert len({delta.id for delta in firsts}) == len(firsts)
    assert not any(delta.id for delta in deltas if not delta.name)
    return content, [(call.name, call.arguments) for call in calls]


def expected(recording: dict[str, Any]) -> tuple[str, list[tuple[str, Any]]]:
    return recording.get("content", ""), [(call["name"], call["arguments"]) for call in recording["calls"]]


def loaded(parsed: tuple[str, list[tuple[str, str]]]) -> tuple[str, list[tuple[str, Any]]]:
    content, calls = parsed
    return content, [(name, json.loads(arguments)) for name, arguments in calls]


@recorded
def test_a_recording_parses_whole(recording: dict[str, Any]) -> None:
    assert loaded(parse(FORMATS[recording["format"]], [recording["text"]])) == expected(recording)


@recorded
def test_a_recording_parses_alike_however_it_is_cut(recording: dict[str, Any]) -> None:
    tool_format, text = FORMATS[recording["format"]], recording["text"]
    whole = parse(tool_format, [text])
    for cut in range(len(text) + 1):
        assert parse(tool_format, [text[:cut], text[cut:]]) == whole, f"cut at {cut}: {text[:cut]!r}"
    assert parse(tool_format, text) == whole, "character by character"
    assert parse(tool_format, ["", text, ""]) == whole


@recorded
def test_no_part_of_a_recording_breaks_its_parser(recording: dict[str, Any]) -> None:
    tool_format, text = FORMATS[recording["format"]], recording["text"]
    for end in range(len(text)):
        content, calls = parse(tool_format, [text[:end]])
        spoken = re.sub(r"^all\n(<\|content\|>)?", "", text[:end])  # by which Functionary addresses the user
        assert calls or content in (text[:end], spoken), "what is no call is content, all of it"
        assert parse(tool_format, [text[: end // 2], text[end // 2 : end]]) == (content, calls)


@recorded
def test_the_control_tokens_of_a_recording_are_marks(recording: dict[str, Any]) -> None:
    assert set(recording.get("control", ())) <= FORMATS[recording["format"]].marks


def test_every_format_is_recorded() -> None:
    assert {recording["format"] for recording in RECORDINGS} == FORMATS.keys()


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS.keys())
@pytest.mark.parametrize(
    "text",
    ["", " \n", "Hello!\n", "a { b", "[", '{"', "```", "x <tool_c", "> >> >", "<", 'Say "{"name": 1}" twice.\n\nOk. '],
)
def test_content_without_calls_stays_as_it_is(tool_format: ToolFormat, text: str) -> None:
    assert parse(tool_format, [text]) == (text, [])
    assert parse(tool_format, text) == (text, [])


@pytest.mark.parametrize("tool_format", FORMATS.values(), ids=FORMATS.keys())
def test_plain_prose_is_not_held_back(tool_format: ToolFormat) -> None:
    parser = tool_format.parser(TOOLS)
    said = "".join(parser.push(character).content for character in "It is 21 degrees\nin Paris.")
    assert said == "It is 21 degrees\nin Paris."


@pytest.mark.parametrize(
    "tool_format", [*FORMATS.values(), format_for(ModelConfig(name="x"), None)], ids=lambda f: f.name
)
@pytest.mark.parametrize("form", ["{}", "[{}]", " \n{}", "[{}, {}]"])
def test_forced_output_is_bare_json_whatever_the_format(tool_format: ToolFormat, form: str) -> None:
    call = '{"name": "get_time", "arguments": {"zone": "CET"}}'
    text = form.replace("{}", call)
    whole = parse(tool_format, [text], forced=True)
    assert whole == ("", [("get_time", '{"zone": "CET"}')] * form.count("{}"))
    for cut in range(len(text)):
        assert parse(tool_format, [text[:cut], text[cut:]], forced=True) == whole


@pytest.mark.parametrize("tool_format", [*FORMATS.values(), LOCALAI], ids=lambda tool_format: tool_format.name)
def test_nonsense_breaks_no_parser(tool_format: ToolFormat) -> None:
    random = Random(0)
    marks = [piece for r in RECORDINGS if r["format"] == tool_format.name for piece in re.split(r"(\W)", r["text"])]
    words = [
        *marks,
        *'{}[]()",:=\\<>/ \n',
        '{"name": "get_time", "arguments": {',
        '"name"',
        "get_time",
        "{}",
        "\ud800",
        "\0",
    ]
    for _ in range(100):
        pieces = random.choices(words, k=random.randint(1, 40))
        content, calls = parse(tool_format, pieces)
        assert (content, calls) == parse(tool_format, ["".join(pieces)])
        assert calls or content == "".join(pieces)


def test_a_plain_answer_in_json_is_not_held_back_to_its_end() -> None:
    parser = FORMATS["json"].parser(TOOLS)
    pieces = ['{"summ', 'ary": ', '"It', " is", ' warm"}']
    assert [parser.push(piece).content for piece in pieces] == ["", "", '{"summary": "It', " is", ' warm"}']


def test_arguments_stream_as_the_model_writes_them() -> None:
    pieces = ['{"name": "get_we', 'ather", "arguments"', ': {"loca', 'tion":  "Par', 'is"', "}", "}"]
    parser = FORMATS["json"].parser(TOOLS)
    seen = [[(call.name, call.arguments) for call in parser.push(piece).calls] for piece in pieces]
    assert seen == [[], [], [("get_weather", '{"loca')], [("", 'tion":  "Par')], [("", 'is"')], [("", "}")], []]
    assert parser.finish().calls == []


def test_an_answer_that_is_cut_off_leaves_its_arguments_open() -> None:
    assert parse(FORMATS["hermes"], ['<tool_call>{"name": "get_time", "arguments": {"zone": "C']) == (
        "", [("get_time", '{"zone": "C')],
    )  # fmt: skip
    assert parse(FORMATS["qwen3-coder"], ["<function=get_time>\n<parameter=zone>\nC"]) == (
        "", [("get_time", '{"zone": "C')],
    )  # fmt: skip


# ---- which tool_format a model uses ----


@pytest.mark.parametrize(("mark", "name"), TEMPLATE_MARKS)
def test_a_template_shows_the_format(mark: str, name: str) -> None:
    assert format_for(ModelConfig(name="x"), "{{ messages }}" + mark).name == name


def test_every_mark_and_alias_leads_to_a_row() -> None:
    assert {name for _, name in TEMPLATE_MARKS} | set(ALIASES.values()) <= FORMATS.keys()
    assert not ALIASES.keys() & FORMATS.keys()


def test_a_template_without_marks_or_none_means_bare_json() -> None:
    assert format_for(ModelConfig(name="x"), None).name == "json"
    assert format_for(ModelConfig(name="x"), "{{ messages[-1]['content'] }}").name == "json"


def test_the_config_goes_before_the_template() -> None:
    assert format_for(ModelConfig(name="x", tool_format="pythonic"), "<tool_call>").name == "pythonic"


def test_the_configs_own_templates_are_looked_at() -> None:
    config = ModelConfig(name="x", template=Template(function="Answer in <tool_call></tool_call> {{.Input}}"))
    assert format_for(config, None).name == "hermes"


def test_the_literals_of_the_grammar_are_looked_at() -> None:
    prefix = FunctionConfig(grammar=GrammarConfig(prefix="<tool_call>\n"))
    assert format_for(ModelConfig(name="x", function=prefix), None).name == "hermes"
    trigger = FunctionConfig(grammar=GrammarConfig(triggers=[GrammarTrigger(word="<|python_tag|>")]))
    assert format_for(ModelConfig(name="x", function=trigger), None).name == "llama3-json"


def test_the_llama_grammar_is_functionarys_format() -> None:
    function = FunctionConfig(grammar=GrammarConfig(schema_type="llama3.1"))
    tool_format = format_for(ModelConfig(name="x", function=function), None)
    assert parse(tool_format, ['<function=get_time>{"zone": "CET"}</function>']) == (
        "",
        [("get_time", '{"zone": "CET"}')],
    )


def test_a_block_with_regular_expressions_is_localais_parser() -> None:
    function = FunctionConfig(response_regex=[r"(?P<name>\w+)\((?P<arguments>.*)\)"])
    tool_format = format_for(ModelConfig(name="x", function=function), "<tool_call>")
    assert parse(tool_format, ['get_time({"zone": "CET"})']) == ("", [("get_time", '{"zone": "CET"}')])


def test_a_block_without_any_leaves_the_templates_format() -> None:
    function = FunctionConfig(disable_no_action=True, grammar=GrammarConfig(disable=True))
    assert format_for(ModelConfig(name="x", function=function), "<tool_call>").name == "hermes"


@pytest.mark.parametrize("template", [None, "<tool_call>"])
def test_mixed_text_and_json_are_told_apart(template: str | None) -> None:
    function = FunctionConfig(grammar=GrammarConfig(mixed_mode=True))
    tool_format = format_for(ModelConfig(name="x", function=function), template)
    assert parse(tool_format, ['Well: {"name": "get_time", "arguments": {}}'])[1] == [("get_time", "{}")]
    assert parse(tool_format, ["Well."]) == ("Well.", [])


def test_calls_behind_an_unknown_prefix_are_found() -> None:
    function = FunctionConfig(grammar=GrammarConfig(prefix="CALL: "))
    tool_format = format_for(ModelConfig(name="x", function=function), None)
    assert parse(tool_format, ['CALL: {"name": "get_time", "arguments": {}}']) == ("", [("get_time", "{}")])


def test_keys_of_the_config_are_read_in_free_and_in_forced_output() -> None:
    function = FunctionConfig(function_name_key="function", function_arguments_key="args")
    tool_format = format_for(ModelConfig(name="x", function=function), None)
    text = '{"function": "get_time", "args": {"zone": "CET"}}'
    for forced in (False, True):
        assert parse(tool_format, text, forced=forced) == ("", [("get_time", '{"zone": "CET"}')])


@pytest.mark.parametrize("preset", ["functionary", "qwen3-coder", "qwen3.5", "glm-4.5", "minimax-m2", "kimi-k2",
                                    "apriel-1.5", "xiaomi-mimo"])  # fmt: skip
def test_localais_presets_are_known(preset: str) -> None:
    tool_format = format_for(ModelConfig(name="x", function=FunctionConfig(xml_format_preset=preset)), None)
    assert tool_format.name == ALIASES.get(preset, preset)


def test_tags_of_the_config() -> None:
    form = XmlFormat(
        tool_start="<do:", tool_sep=">", key_start="<", key_val_sep="=", val_end=">", tool_end="</do>", raw_argval=True
    )
    tool_format = format_for(ModelConfig(name="x", function=FunctionConfig(xml_format=form)), None)
    text = "Now <do:book_table><guests=2></do>"
    assert parse(tool_format, text) == ("Now", [("book_table", '{"guests": "2"}')])


def test_tags_of_the_config_around_json() -> None:
    form = XmlFormat(tool_start="<do:", tool_sep=">", tool_end="</do>")
    tool_format = format_for(ModelConfig(name="x", function=FunctionConfig(xml_format=form)), None)
    assert parse(tool_format, 'Now <do:get_time>{"zone": "CET"}</do>') == ("Now", [("get_time", '{"zone": "CET"}')])


def test_replacements_are_made_before_the_tags_are_read() -> None:
    function = FunctionConfig(
        xml_format_preset="functionary", replace_function_results=[Replacement(key="call", value="function")]
    )
    tool_format = format_for(ModelConfig(name="x", function=function), None)
    assert parse(tool_format, ["<call=get_time>{}</call>"]) == ("", [("get_time", "{}")])
    assert tool_format.marks == FORMATS["functionary-v3.1"].marks


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ModelConfig(name="x", tool_format="hermse"), "tool_format: expected one of json, hermes"),
        (
            ModelConfig(name="x", function=FunctionConfig(xml_format_preset="y")),
            "function.xml_format_preset: expected one of",
        ),
        (
            ModelConfig(name="x", function=FunctionConfig(json_regex_match=["("])),
            r"function.json_regex_match\[0\]: expected a regular expression",
        ),
        (
            ModelConfig(name="x", function=FunctionConfig(response_regex=["a", r"(?P<n>\w+)"])),
            r"function.response_regex\[0\]: expected a group \(\?P<name>…\)",
        ),
    ],
)
def test_an_operators_mistake_is_named(config: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigInvalid, match=message):
        format_for(config, None)


def test_an_operators_mistake_is_found_when_the_file_is_loaded() -> None:
    with pytest.raises(ConfigInvalid, match="tool_format: expected one of"):
        config_file.parse({"name": "x", "tool_format": "hermse"})
    with pytest.raises(ConfigInvalid, match=r"function.xml_format.tool_end: is missing"):
        config_file.parse({"name": "x", "function": {"xml_format": {"tool_start": "<"}}})
    raw = {"name": "x", "function": {"xml_format": {"tool_start": "<", "tool_end": ">", "key_val_sep2": None}}}
    assert config_file.parse(raw).function.xml_format == XmlFormat(tool_start="<", tool_end=">")
