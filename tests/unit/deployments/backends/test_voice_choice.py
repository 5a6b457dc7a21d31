"""Which voice and language is meant."""

import pytest

from deployments.backends.voice_choice import choose_language, no_such_voice
from deployments.errors import InvalidRequest


@pytest.mark.parametrize(
    ("language", "offered", "chosen"),
    [
        (None, ["de", "en"], "en"),
        (None, ["pt-br", "fr"], "pt-br"),
        ("DE", ["en", "de"], "de"),
        ("en-US", ["de", "en"], "en"),
        ("en", ["en_US"], "en_US"),
        ("zh", ["en", "zh-cn"], "zh-cn"),
        ("pt-PT", ["pt-br", "pt-pt"], "pt-pt"),
        ("pt", ["pt-br", "pt-pt"], "pt-br"),
    ],
)
def test_languages(language: str | None, offered: list[str], chosen: str) -> None:
    assert choose_language(language, offered) == chosen


def test_a_language_that_isnt_offered() -> None:
    with pytest.raises(InvalidRequest, match='"fr"; it speaks: en, de') as refused:
        choose_language("fr", ["en", "de"])
    assert refused.value.param == "language"


def test_a_voice_that_isnt_there_and_some_that_are() -> None:
    error = no_such_voice("x", [f"p{number}" for number in range(109)])
    assert error.param == "voice"
    assert '"x"' in error.message and "p0, p1," in error.message and error.message.endswith("p19 and 89 more")
    assert no_such_voice("x", ["joe"]).message.endswith("it has: joe")
