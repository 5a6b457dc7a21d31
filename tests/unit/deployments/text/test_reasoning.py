"""Reasoning is split from the answer, however the text is cut."""

from collections.abc import Iterable

import pytest

from deployments.config import ModelConfig
from deployments.config_blocks import Reasoning, TagPair, Template
from deployments.config_file import parse
from deployments.errors import ConfigInvalid
from deployments.text.reasoning import FORMATS, ReasoningSplitter, splitter_for

THINK = [("<think>", "</think>")]


def split(splitter: ReasoningSplitter | None, pieces: Iterable[str]) -> tuple[str, str]:
    assert splitter is not None
    parts = [*map(splitter.push, pieces), splitter.finish()]
    return "".join(reasoning for reasoning, _ in parts), "".join(content for _, content in parts)


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "content"),
    [
        ("<think>\nHm, 6 * 7.\n\nYes.\n</think>\n\n42, <think> so.\n", "", "Hm, 6 * 7.\n\nYes.", "42, <think> so.\n"),
        ("\n <think>Hm.</think>42", "", "Hm.", "42"),
        ("<think>\n\n</think>\n\n42", "", "", "42"),
        ("42 </think> is <think>no</think> tag", "", "", "42 </think> is <think>no</think> tag"),
        (" \n42\n", "", "", " \n42\n"),
        ("<thin", "", "", "<thin"),
        ("<think>Hm, a < b </thin", "", "Hm, a < b </thin", ""),
        ("<think>Hm. \n", "", "Hm.", ""),
        ("\nHm.\n</think>\n\n42", "<think>", "Hm.", "42"),
        ("<think>\nHm.</think>42", "<think>", "Hm.", "42"),
        ("Hm, cut off", "<think>", "Hm, cut off", ""),
        ("</think>42", "<think>", "", "42"),
        ("", "<think>", "", ""),
        ("", "", "", ""),
    ],
)
def test_it_splits_alike_however_the_text_is_cut(text: str, opened: str, reasoning: str, content: str) -> None:
    for cut in range(len(text) + 1):
        splitter = ReasoningSplitter(THINK, opened=opened)
        assert split(splitter, [text[:cut], text[cut:]]) == (reasoning, content), f"cut at {cut}"
    assert split(ReasoningSplitter(THINK, opened=opened), text) == (reasoning, content)


def test_both_parts_stream() -> None:
    splitter = ReasoningSplitter(THINK)
    pieces = ["<think>\n", "Hm", ", well", ".\n</thi", "nk>\n\n", "4", "2"]
    assert list(map(splitter.push, pieces)) == [
        ("", ""), ("Hm", ""), (", well", ""), (".", ""), ("", ""), ("", "4"), ("", "2"),
    ]  # fmt: skip


def test_each_pair_of_tags_ends_with_its_own() -> None:
    tags = [("<a>", "</a>"), ("<b>", "</b>")]
    assert split(ReasoningSplitter(tags), ["<b>x</a>y</b>z"]) == ("x</a>y", "z")


def test_reasoning_can_be_thrown_away() -> None:
    assert split(ReasoningSplitter(THINK, keep=False), "<think>Hm.</think>42") == ("", "42")


@pytest.mark.parametrize("name", FORMATS)
def test_a_template_shows_the_tags(name: str) -> None:
    row = FORMATS[name]
    for mark in row.template:
        splitter = splitter_for(ModelConfig(name="x"), "{{ messages }}" + mark, "user: hello")
        assert split(splitter, [f"{row.start} Hm. {row.end} 42"]) == ("Hm.", "42")


def test_marks_are_the_tags_that_may_be_control_tokens() -> None:
    splitter = splitter_for(ModelConfig(name="x", reasoning_format="mistral"), None, "")
    assert splitter is not None
    assert splitter.marks == {"[THINK]", "[/THINK]"}


def test_the_prompt_may_have_opened_the_reasoning() -> None:
    config = ModelConfig(name="x")
    assert split(splitter_for(config, "<think>", "<|im_start|>assistant\n<think>\n"), ["Hm.</think>42"]) == (
        "Hm.",
        "42",
    )


def test_the_prompt_may_have_shut_it_already() -> None:
    prompt = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert split(splitter_for(ModelConfig(name="x"), "<think>", prompt), ["42"]) == ("", "42")


def test_a_template_without_tags_means_no_splitting() -> None:
    assert splitter_for(ModelConfig(name="x"), "{{ messages }}", "hello") is None
    assert splitter_for(ModelConfig(name="x"), None, "hello") is None


def test_the_configs_own_template_is_looked_at() -> None:
    config = ModelConfig(name="x", template=Template(chat="{{.Input}} Think in <think></think>."))
    assert split(splitter_for(config, None, ""), ["<think>Hm.</think>42"]) == ("Hm.", "42")


def test_the_config_goes_before_the_template() -> None:
    config = ModelConfig(name="x", reasoning_format="seed-oss")
    assert split(splitter_for(config, "<think>", ""), ["<seed:think>Hm.</seed:think>42"]) == ("Hm.", "42")
    for off in (
        ModelConfig(name="x", reasoning_format="none"),
        ModelConfig(name="x", reasoning=Reasoning(disable=True)),
    ):
        assert splitter_for(off, "<think>", "") is None


def test_tags_of_the_config() -> None:
    config = ModelConfig(
        name="x", reasoning=Reasoning(tag_pairs=[TagPair(start="<r>", end="</r>")], strip_reasoning_only=True)
    )
    assert split(splitter_for(config, None, "assistant: <r>"), ["Hm.</r>42"]) == ("", "42")


def test_an_operators_mistake_is_named() -> None:
    with pytest.raises(ConfigInvalid, match=r'reasoning_format: expected none, think, .*; got "thnk"'):
        parse({"name": "x", "reasoning_format": "thnk"})
    assert parse({"name": "x", "reasoning_format": "none"}).reasoning_format == "none"
    assert parse({"name": "x", "reasoning_format": "granite"}).reasoning_format == "granite"
