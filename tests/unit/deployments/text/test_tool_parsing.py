"""What parsers of tool calls have in common, and where brackets end."""

import pytest

from deployments.backends.base import ToolCallDelta
from deployments.text.decoding import overlap
from deployments.text.nesting import Nesting
from deployments.text.tool_parsing import Parsed, Reading, StreamedParser, control_marks, parameters_of

CALL, CALLS = "<call>", "<calls>"


class _Calls(StreamedParser):
    """A call is `<call>name;`; `<calls>` is another mark, which the first one's start may turn out to be."""

    def _read(self) -> Reading[None]:
        while mark := (yield from self._say_until([CALL, CALLS])):
            self._at = len(mark)
            if mark == CALL and (yield from self._find([";"])):
                name = self._text[len(mark) : self._at]
                self._at += 1
                self._announce(name)
                self._argue("{}")
            else:
                self._say(len(mark))


def parsed(*pieces: str) -> list[Parsed]:
    parser = _Calls()
    return [*map(parser.push, pieces), parser.finish()]


def content(*pieces: str) -> str:
    return "".join(one.content for one in parsed(*pieces))


def test_content_is_ready_at_once_but_for_what_may_begin_a_mark() -> None:
    assert [one.content for one in parsed("one <", "call", "er <ca", "lls> <cal")] == [
        "one", "", " <caller", " <calls>", " <cal",
    ]  # fmt: skip


def test_white_space_waits_for_what_follows_it() -> None:
    assert [one.content for one in parsed("a", " \n", " b ")] == ["a", "", " \n b", " "]


def test_white_space_next_to_a_call_is_none_of_the_content() -> None:
    assert content(" \n<call>f;\n") == ""
    assert content("Well:\n\n<call>f;\n<call>g; \nSo it is.\n") == "Well:So it is."


def test_white_space_without_a_call_is_content() -> None:
    assert content(" \n a \n") == " \n a \n"


def test_a_calls_first_piece_has_its_id_and_name() -> None:
    first, second, end = parsed("<call>f", ";<call>g;", "")[1:]
    assert [(call.index, call.name, call.arguments) for call in first.calls] == [(0, "f", "{}"), (1, "g", "{}")]
    assert len({call.id for call in first.calls}) == 2
    assert second == end == Parsed()


def test_what_turns_out_to_be_no_call_is_content() -> None:
    assert content("a <call>never ", "ended") == "a <call>never ended"


def test_pieces_of_one_call_that_come_together_are_one() -> None:
    class Fragments(StreamedParser):
        def _read(self) -> Reading[None]:
            self._announce("f")
            while (yield from self._peek()):
                self._at += 1
                self._argue(self._drop())

    parser = Fragments()
    assert [call.arguments for call in parser.push("{").calls] == ["{"]
    assert parser.push('"a"').calls == [ToolCallDelta(0, arguments='"a"')]
    assert parser.finish().calls == []


def test_overlap_is_the_longest_end_that_may_go_on() -> None:
    assert [overlap(text, "<call>") for text in ("a<", "a<cal", "<call>", "<<", "")] == [1, 4, 0, 1, 0]


def test_marks_that_may_be_control_tokens() -> None:
    texts = ["<|from|>assistant\n<|recipient|>", "[TOOL_CALLS]", '<invoke name="', "<function=", "```json", "[/THINK]"]
    assert control_marks(texts) == {"<|from|>", "<|recipient|>", "[TOOL_CALLS]", "[/THINK]"}


def test_parameters_of_tools_with_and_without_any() -> None:
    schema = {"type": "string"}
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": schema}}}},
        {"type": "function", "function": {"name": "g", "parameters": None}},
        {"name": "flat"},
    ]
    assert parameters_of(tools) == {"f": {"a": schema}, "g": {}, "flat": {}}


@pytest.mark.parametrize(
    ("text", "quotes"),
    [
        ("{}", '"'),
        ('{"a": [1, {"b": "}"}], "c": "\\"}\\\\"}', '"'),
        ("(x='(', y=\")\", z=['\\'', {}])", "\"'"),
        ('{"it": "isn\'t"}', '"'),
        ('"a \\\\ string, with {[( and \\" in it"', '"'),
    ],
)
def test_a_bracket_ends_where_its_own_is_closed(text: str, quotes: str) -> None:
    assert Nesting(quotes).end(text + " }tail", 0) == len(text)
    for cut in range(1, len(text)):
        nesting = Nesting(quotes)
        assert nesting.end(text[:cut], 0) is None
        assert nesting.end(text + "}", cut) == len(text), f"cut at {cut}"
