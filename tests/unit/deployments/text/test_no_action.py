"""The no-action tool's call becomes content, wherever the text is cut."""

import json

import pytest

from deployments.backends.base import ToolCallDelta
from deployments.text.no_action import NoActionParser
from deployments.text.tool_parsing import Parsed


class Scripted:
    """A ToolParser for which each piece of text is a line: `index name arguments`, or content."""

    def push(self, text: str) -> Parsed:
        if not text.startswith("#"):
            return Parsed(text)
        index, name, arguments = text[1:].split(" ", 2)
        return Parsed("", [ToolCallDelta(int(index), f"id{index}" if name else "", name, arguments)])

    def finish(self) -> Parsed:
        return Parsed()


def read(*pieces: str, document: bool = False) -> Parsed:
    parser, out = NoActionParser(Scripted(), "answer", document=document), Parsed()
    for piece in pieces:
        parsed = parser.push(piece)
        out.content += parsed.content
        out.calls += parsed.calls
    rest = parser.finish()
    return Parsed(out.content + rest.content, out.calls + rest.calls)


MESSAGE = 'Hé said:\n"\\o/" 🐳 \t</b> €'


@pytest.mark.parametrize("ascii_only", [True, False])
def test_the_message_is_content_however_its_json_is_cut(ascii_only: bool) -> None:
    text = json.dumps({"message": MESSAGE}, ensure_ascii=ascii_only)
    for cut in range(len(text) + 1):
        assert read(f"#0 answer {text[:cut]}", f"#0  {text[cut:]}") == Parsed(MESSAGE)
    assert read("#0 answer ", *(f"#0  {char}" for char in text)) == Parsed(MESSAGE)


def test_the_message_comes_while_it_is_written() -> None:
    parser = NoActionParser(Scripted(), "answer")
    said = [
        parser.push(piece).content for piece in ('#0 answer {"mess', '#0  age": "He', "#0  llo\\", '#0  n!"', "#0  }")
    ]
    assert said == ["", "He", "llo", "\n!", ""]


@pytest.mark.parametrize(
    ("string", "text"),
    [
        (r"\ud83d\udc33", "🐳"),
        (r"\ud83dx", "�x"),
        (r"\ud83d\n", "�\n"),
        (r"\udc33", "�"),
        (r"\u12G4", "u12G4"),
        (r"\q\/", "q/"),
    ],
)
def test_escapes(string: str, text: str) -> None:
    whole = f'{{"message": "{string}"}}'
    assert read(f"#0 answer {whole}").content == text
    assert read("#0 answer ", *(f"#0  {char}" for char in whole)).content == text


@pytest.mark.parametrize("arguments", ["{}", '{"message": 3}', '{"text": "x"}', "", "null"])
def test_without_a_message_there_is_nothing_to_say(arguments: str) -> None:
    assert read(f"#0 answer {arguments}") == Parsed()


def test_a_document_is_content_as_it_is_written() -> None:
    assert read('#0 answer {"a":', "#0   1}", document=True) == Parsed('{"a": 1}')


def test_other_calls_stay_and_count_from_0() -> None:
    parsed = read("before ", '#0 answer {"message": "hi"}', '#1 f {"a"', "#1  :1}", "#2 g {}")
    assert parsed.content == "before hi"
    assert [(call.index, call.id, call.name, call.arguments) for call in parsed.calls] == [
        (0, "id1", "f", '{"a"'),
        (0, "", "", ":1}"),
        (1, "id2", "g", "{}"),
    ]
