"""Reading gallery indexes."""

from pathlib import Path

import pytest

from deployments.errors import ConfigInvalid, ModelNotFound
from gallery import sources
from gallery.index import STARTER, Entry, find, merge, read
from gallery.sources import source_of


def written(folder: Path, text: str) -> Path:
    path = folder / "index.yaml"
    path.write_text(text)
    return path


def test_anchors_and_explicit_merge_keys(tmp_path: Path) -> None:
    first, second = read(
        written(
            tmp_path,
            """
- &base
  name: small
  license: mit
  config_file: {backend: llama-cpp, parameters: {model: small.gguf, top_k: 5}}
  files: [{filename: small.gguf, sha256: AB, uri: "pypi://p==1/small.gguf"}]
- !!merge <<: *base
  name: large
  overrides: {parameters: {model: large.gguf}}
""",
        )
    )
    assert (first.license, second.license) == ("mit", "mit")
    assert second.config() == {
        "name": "large",
        "backend": "llama-cpp",
        "parameters": {"model": "large.gguf", "top_k": 5},
    }
    assert first.config()["parameters"]["model"] == "small.gguf", "an override changes its own entry alone"


def test_keys_of_other_galleries_are_left_unread(tmp_path: Path) -> None:
    (entry,) = read(written(tmp_path, "- {name: a, config_file: {}, size: 3GB, variants: [{model: b}]}"))
    assert entry == Entry("a", {})


def test_an_empty_index_has_no_entries(tmp_path: Path) -> None:
    assert read(written(tmp_path, "# nothing yet\n")) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("- {config_file: {}}", "0.name"),
        ("- {name: a, config_file: text}", "0.config_file"),
        ("- {name: a, config_file: {}, files: [{filename: f}]}", "0.files.0.uri"),
        ("name: a", "the document"),
        ("- {name: a", "not YAML"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_place(tmp_path: Path, text: str, place: str) -> None:
    with pytest.raises(ConfigInvalid, match=rf"index\.yaml: {place}"):
        read(written(tmp_path, text))


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"nowhere\.yaml: No such file"):
        read(tmp_path / "nowhere.yaml")


def test_names_are_found_in_any_case() -> None:
    entries = [Entry("Tiny", {}), Entry("other", {})]
    assert find(entries, "tIny") is entries[0]
    with pytest.raises(ModelNotFound, match="'absent'"):
        find(entries, "absent")


def test_merge_goes_into_maps_and_replaces_the_rest() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 3}, "d": [2], "e": 4}) == {
        "a": {"b": 3, "c": 2},
        "d": [2],
        "e": 4,
    }


def test_every_entry_of_the_starter_gallery_can_be_installed() -> None:
    for entry in read(STARTER):
        assert entry.license, entry.name
        assert entry.description, entry.name
        assert entry.config()["parameters"]["model"] in {file.filename for file in entry.files}
        for file in entry.files:
            assert len(file.sha256) == 64, file.filename
            assert source_of(file.uri)


def test_every_scheme_is_written_as_in_an_address() -> None:
    assert all(scheme.isalnum() and scheme.islower() for scheme in sources.SOURCES)
