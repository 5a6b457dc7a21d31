"""Contents of messages, with and without media."""

from typing import Any

import pytest

from deployments.errors import InvalidRequest, UnsupportedParameter
from deployments.text.content_parts import Contents

IMAGE, SOUND = {"type": "image", "index": 0}, {"type": "audio", "index": 1}


def contents(count: int = 2, **markers: str | None) -> Contents:
    return Contents("m", markers, count)


def said(reader: Contents, *parts: Any) -> Any:
    return reader.plain({"role": "user", "content": list(parts)})["content"]


def test_a_marker_stands_for_a_medium_and_the_order_is_kept() -> None:
    reader = contents(image="<image>", audio="<sound>")
    assert said(reader, {"type": "text", "text": "a"}, SOUND, "b", IMAGE) == "a<sound>b<image>"
    assert reader.places == [1, 0]


def test_without_a_marker_the_template_gets_the_part() -> None:
    reader = contents(image=None)
    assert said(reader, IMAGE, {"type": "text", "text": "what?"}) == [
        {"type": "image"},
        {"type": "text", "text": "what?"},
    ]
    assert said(reader, {"type": "text", "text": "no medium"}) == "no medium"


@pytest.mark.parametrize("content", ["x<image>y", [{"type": "text", "text": "x<image>y"}]])
def test_a_user_can_not_write_a_marker(content: Any) -> None:
    assert contents(image="<image>").plain({"content": content})["content"] == "xy"
    assert contents(0, image="<image>").plain({"content": content})["content"] == "x<image>y"


@pytest.mark.parametrize(("part", "names"), [(IMAGE, "images"), (SOUND, "audio")])
def test_what_the_model_can_not_read_is_refused(part: Any, names: str) -> None:
    with pytest.raises(UnsupportedParameter, match=f"model m takes no {names}") as refused:
        said(contents(), part)
    assert refused.value.param == "messages"


@pytest.mark.parametrize("index", [-1, 2])
def test_a_place_without_a_medium_is_refused(index: int) -> None:
    with pytest.raises(InvalidRequest, match="no medium"):
        said(contents(image="<image>"), {**IMAGE, "index": index})
