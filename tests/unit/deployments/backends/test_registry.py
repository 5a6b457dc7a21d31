"""The table of backends."""

import importlib.util
from pathlib import Path

import pytest

from deployments.backends import registry
from deployments.backends.base import Task
from deployments.backends.registry import ALIASES, BACKENDS, Backend, engine_class, for_file, lookup
from deployments.errors import BackendNotInstalled, ConfigInvalid


@pytest.mark.parametrize("target", sorted({target for row in BACKENDS.values() for target in row.classes.values()}))
def test_every_row_names_a_class_that_exists(target: str) -> None:
    module, _, attribute = target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    assert f"class {attribute}" in Path(spec.origin).read_text(encoding="utf-8")


def test_every_alias_leads_to_a_row() -> None:
    assert {ALIASES[alias] for alias in ALIASES} <= set(BACKENDS)
    assert lookup("llama") is BACKENDS["llama-cpp"]


def test_an_unknown_backend_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigInvalid, match=r"echo, .*llama-cpp, piper"):
        lookup("nope")


def test_a_missing_package_is_answered_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Backend({Task.SPEECH: "none.such:Engine"}, requires=("no_such_package",), extra="tts")
    monkeypatch.setitem(registry.BACKENDS, "piper", row)
    with pytest.raises(BackendNotInstalled, match="make install-tts"):
        engine_class("piper", Task.SPEECH)


def test_of_several_packages_the_missing_one_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Backend({Task.SPEECH: "none.such:Engine"}, requires=("json", "no_such_package"), extra="tts")
    monkeypatch.setitem(registry.BACKENDS, "piper", row)
    with pytest.raises(BackendNotInstalled, match='"no_such_package"'):
        engine_class("piper", Task.SPEECH)


def test_a_backend_asked_for_what_it_cannot_do_says_what_it_can() -> None:
    with pytest.raises(ConfigInvalid, match="can't do speech: it is for image"):
        engine_class("diffusers", Task.SPEECH)


def test_weights_find_their_backend_by_suffix() -> None:
    assert for_file("Model.Q4_K.GGUF") == "llama-cpp"
    assert for_file("notes.txt") is None
