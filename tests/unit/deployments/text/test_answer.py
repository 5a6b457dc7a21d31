"""One answer's tokens, to content, reasoning and calls."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from deployments.backends.base import Choice, Delta, DeltaGroup, Token, TokenLogprob
from deployments.text.answer import Answer
from deployments.text.decoding import Finetune
from deployments.text.deltas import collect
from deployments.text.reasoning import ReasoningSplitter
from deployments.text.tool_formats import FORMATS

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("f", "g")]
F, G = '<tool_call>\n{"name": "f", "arguments": {"a": "é"}}\n</tool_call>', '<tool_call>{"name": "g"}</tool_call>'
WHOLE = f"<think>\nHm… 🐳\n</think>\n\nLet me see.\n{F}\n{G}"


def answer(stop: Sequence[str] = (), finetune: Finetune | None = None, plain: bool = False, **fields: Any) -> Answer:
    given: dict[str, Any] = {
        "splitter": ReasoningSplitter([("<think>", "</think>")]),
        "parser": FORMATS["hermes"].parser(TOOLS),
        "most_calls": math.inf,
    }
    return Answer(0, stop, finetune or Finetune(), **({} if plain else given | fields))


def tokens(text: str) -> list[Token]:
    """A token is a byte."""
    return [Token(byte, raw := bytes([byte]), TokenLogprob(byte, raw, -0.5)) for byte in text.encode()]


def deltas(one: Answer, given: Sequence[Token], finish: str = "stop") -> list[Delta]:
    """As `ChatModel` does it, with a group for each token."""
    out = []
    for token in given:
        one.push(token)
        if one.stopped:
            break
        out.append(one.delta(None))
    out.append(one.delta("stop" if one.stopped else finish))  # type: ignore[arg-type]
    return [delta for delta in out if delta is not None]


async def collected(parts: Sequence[Delta]) -> Choice:
    async def stream() -> Any:
        for delta in parts:
            yield DeltaGroup([delta])

    return (await collect(stream())).choices[0]


def calls(choice: Choice) -> list[tuple[int, str, str]]:
    return [(call.index, call.name, call.arguments) for call in choice.tool_calls]


async def test_reasoning_content_and_calls() -> None:
    parts = deltas(answer(), tokens(WHOLE))
    choice = await collected(parts)
    assert (choice.reasoning, choice.text, choice.finish_reason) == ("Hm… 🐳", "Let me see.", "tool_calls")
    assert calls(choice) == [(0, "f", '{"a": "é"}'), (1, "g", "{}")]
    assert len({call.id for call in choice.tool_calls}) == 2
    assert bytes(i for delta in parts for i in delta.token_ids).decode() == WHOLE
    assert len(parts) > 20, "it comes as it is written"


async def test_resumed_anywhere_nothing_is_doubled_and_nothing_missing() -> None:
    """What was sent up to any delta, and what a new answer sends after replaying that delta's ids, is the whole."""
    whole = deltas(answer(["STOP"]), tokens(WHOLE))
    expected = await collected(whole)
    ids: list[int] = []
    for place, delta in enumerate(whole[:-1], 1):
        ids += delta.token_ids
        resumed = answer(["STOP"])
        resumed.replay(tokens(WHOLE)[: len(ids)])
        rest = deltas(resumed, tokens(WHOLE)[len(ids) :])
        # what collect() appends to, it changes
        choice = await collected([*deltas(answer(["STOP"]), tokens(WHOLE))[:place], *rest])
        assert (choice.reasoning, choice.text, calls(choice)) == (expected.reasoning, expected.text, calls(expected))
        assert choice.finish_reason == "tool_calls"


async def test_a_resumed_finetuned_answer_is_whole() -> None:
    resumed = answer(finetune=Finetune(trimspace=["Let"]))
    resumed.replay(tokens(WHOLE)[:40])
    assert (await collected(deltas(resumed, tokens(WHOLE)[40:]))).text == "me see."


async def test_length_stays_length() -> None:
    choice = await collected(deltas(answer(), tokens(WHOLE[:-20]), "length"))
    assert choice.finish_reason == "length" and [call.name for call in choice.tool_calls][:1] == ["f"]


async def test_without_a_call_it_stops() -> None:
    choice = await collected(deltas(answer(), tokens("just <tool text")))
    assert (choice.text, choice.finish_reason, choice.tool_calls) == ("just <tool text", "stop", [])


async def test_a_stop_string_is_one_in_the_content() -> None:
    text = f"<think>STOP</think>a STOP b {F}"
    choice = await collected(deltas(answer(["STOP"]), tokens(text)))
    assert (choice.reasoning, choice.text, choice.finish_reason) == ("STOP", "a ", "stop")
    choice = await collected(deltas(answer(['"a"']), tokens(WHOLE)))
    assert calls(choice)[0] == (0, "f", '{"a": "é"}')


async def test_the_call_after_the_last_one_ends_the_answer() -> None:
    choice = await collected(deltas(answer(most_calls=1), tokens(WHOLE + "never"), "length"))
    assert calls(choice) == [(0, "f", '{"a": "é"}')]
    assert choice.finish_reason == "tool_calls"


MARKS = {7: "<｜tool▁call▁begin｜>".encode(), 8: "<｜tool▁sep｜>".encode(), 9: "<｜tool▁call▁end｜>".encode()}


@pytest.mark.parametrize(("shown", "text", "names"), [(MARKS, "", ["f"]), ({}, "f{}", [])])
async def test_control_tokens_are_seen_where_they_are_marks(
    shown: dict[int, bytes], text: str, names: list[str]
) -> None:
    given = [Token(7, b""), *tokens("f"), Token(8, b""), *tokens("{}"), Token(9, b"")]
    choice = await collected(deltas(answer(shown=shown, parser=FORMATS["deepseek"].parser(TOOLS)), given))
    assert (choice.text, [call.name for call in choice.tool_calls]) == (text, names)


async def test_logprobs_are_those_of_all_tokens() -> None:
    for one in (answer(), answer(plain=True)):
        choice = await collected(deltas(one, tokens(WHOLE)))
        assert b"".join(entry.text for entry in choice.logprobs or []).decode() == WHOLE


async def test_plain_logprobs_end_before_a_stop_string() -> None:
    choice = await collected(deltas(answer(["STOP"], plain=True), tokens("one STOP two")))
    assert b"".join(entry.text for entry in choice.logprobs or []) == b"one "


async def test_finetune_cleans_the_content_alone() -> None:
    one = answer(finetune=Finetune(trimspace=["Let"]))
    parts = deltas(one, tokens(WHOLE))
    choice = await collected(parts)
    assert (choice.reasoning, choice.text) == ("Hm… 🐳", "me see.")
    assert [call.name for call in choice.tool_calls] == ["f", "g"]
    assert [delta.text for delta in parts if delta.text] == ["me see."]
