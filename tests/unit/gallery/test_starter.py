"""The starter gallery: every entry can be installed, and says what it is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.backends.registry import ALIASES, BACKENDS
from deployments.config_file import model_paths, parse
from gallery.index import STARTER, Entry, merge, read_index
from gallery.paths import inside
from gallery.request import File
from gallery.sources import SOURCES
from gallery.sources.uri import Address, InRepository

SHA256 = re.compile(r"[0-9a-f]{64}")
SHAPES = {
    "pypi": re.compile(r"pypi://[a-z0-9-]+==[0-9.]+/[\w./-]+"),
    "huggingface": re.compile(r"huggingface://[\w.-]+/[\w.-]+(@[\w.]+)?/[\w./-]+"),
}
"""Schemes that the starter gallery uses, and how their addresses look."""

_TEXT = STARTER.read_text(encoding="utf-8")
ENTRIES = read_index(_TEXT, "starter.yaml").entries

each = pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)


def config(entry: Entry) -> dict[str, Any]:
    """The model's YAML, as it will be written."""
    return {"name": entry.name, **merge(entry.config_file or {}, entry.overrides)}


def addresses(file: File) -> tuple[str, ...]:
    return file.parts or (file.uri,)


def all_files() -> Iterator[File]:
    return (file for entry in ENTRIES for file in entry.files)


def test_no_entry_is_left_out() -> None:
    index = read_index(_TEXT, "starter.yaml")
    assert index.problems == []
    assert len(index.entries) == len(yaml.safe_load(_TEXT)) > 0


def test_names_are_unique_in_any_case() -> None:
    names = [entry.name.casefold() for entry in ENTRIES]
    assert len(set(names)) == len(names)


@each
def test_says_what_it_is(entry: Entry) -> None:
    assert entry.license
    assert entry.tags
    assert entry.description.endswith(".")
    assert "\n" not in entry.description
    assert all(url.startswith("https://") for url in entry.urls)
    assert entry.urls


@each
def test_the_server_accepts_its_config(entry: Entry) -> None:
    parsed = parse(config(entry))
    assert parsed.known_usecases
    assert parsed.backend in BACKENDS
    assert parsed.backend not in ALIASES, "backends go by their own names here"


@each
def test_its_config_uses_its_files_and_nothing_else(entry: Entry) -> None:
    brought = {file.filename for file in entry.files} | {file.filename.partition("/")[0] for file in entry.files}
    used = {path for _, path in model_paths(parse(config(entry)))}
    assert used
    assert used <= brought
    for filename in {file.filename for file in entry.files}:
        assert any(filename == path or filename.startswith((f"{path}/", f"{path}.json")) for path in used), filename


@each
def test_its_files_stay_in_the_models_directory(entry: Entry, tmp_path: Path) -> None:
    assert entry.files
    for file in entry.files:
        assert inside(tmp_path, file.filename).is_relative_to(tmp_path)


def test_every_address_is_of_a_known_scheme_and_well_formed() -> None:
    for file in all_files():
        assert bool(file.uri) != bool(file.parts), file.filename
        for uri in addresses(file):
            scheme = Address.parse(uri).scheme
            assert scheme in SOURCES
            assert SHAPES[scheme].fullmatch(uri), uri


def test_the_hub_is_asked_for_a_file_at_a_revision() -> None:
    places = [InRepository.parse(uri) for file in all_files() for uri in addresses(file) if "huggingface://" in uri]
    assert all(place.path for place in places)
    assert {len(place.revision) for place in places} == {0, 6, 40}, "none, a tag such as v1.0.0, or a commit"


def test_what_comes_from_a_package_has_a_checksum() -> None:
    from_packages = [file for file in all_files() if addresses(file)[0].startswith("pypi://")]
    assert from_packages
    for file in from_packages:
        assert SHA256.fullmatch(file.sha256), file.filename


def test_checksums_are_checksums() -> None:
    assert all(SHA256.fullmatch(file.sha256) for file in all_files() if file.sha256)


def test_a_file_name_stands_for_one_content() -> None:
    contents: dict[str, tuple[str, tuple[str, ...]]] = {}
    for file in all_files():
        content = file.sha256, addresses(file)
        assert contents.setdefault(file.filename, content) == content, file.filename


def test_names_that_clients_have_built_in_lead_to_its_entries() -> None:
    aliases = yaml.safe_load((STARTER.parents[1] / "aliases.yaml").read_text(encoding="utf-8"))
    names = {entry.name for entry in ENTRIES}
    targets = {name for wanted in aliases.values() for name in ([wanted] if isinstance(wanted, str) else wanted)}
    assert targets <= names
    assert names.isdisjoint(aliases)
