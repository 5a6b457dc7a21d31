"""Settings of a backend in a model's config."""

from typing import Any

import pytest

from deployments.backends.options import read_options
from deployments.config import ModelConfig
from deployments.errors import ConfigInvalid


def read(*options: str) -> dict[str, Any]:
    kinds = {"threshold": float, "width": int, "filter": bool, "name": str}
    return read_options(ModelConfig(name="m", options=list(options)), kinds)


def test_each_is_read_as_its_kind() -> None:
    assert read() == {}
    assert read("threshold: 0.25", "width:3", "filter:True", "name:a:b") == {
        "threshold": 0.25, "width": 3, "filter": True, "name": "a:b",
    }  # fmt: skip


def test_an_unknown_key_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigInvalid, match='m: options: "treshold" is none of threshold, width, filter, name'):
        read("treshold:0.5")


@pytest.mark.parametrize("option", ["width:wide", "width:", "width", "filter:perhaps", "threshold:1,5"])
def test_a_value_that_cannot_be_read_is_named(option: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"m: options: {option.partition(':')[0]} is "):
        read(option)
