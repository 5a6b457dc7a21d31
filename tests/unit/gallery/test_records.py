"""What was installed, by what stands beside the models."""

from pathlib import Path

import pytest
import yaml

from gallery import records
from gallery.plan import Plan, Template
from gallery.records import Record
from gallery.request import File

PLAN = Plan(
    "mine",
    config={"name": "mine"},
    files=(File("w.gguf", "hf://a/b/w.gguf"), File("v.tar.gz", "https://h/v.tar.gz"), File("p", parts=("a:1", "a:2"))),
    templates=(Template("chat", "{{.Input}}"),),
    gallery="g",
    entry="Org/Tiny",
    license="mit",
)


def written(models: Path, plan: Plan = PLAN, text: str = "name: mine\n") -> Record:
    record = records.record_of(plan, {"w.gguf": "ab"}, {"v.tar.gz": ("v/a", "v/b")}, text)
    records.write(models, plan, record, text)
    if text:
        records.yaml_path(models, plan.name).write_text(text)
    return record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = written(tmp_path)
    assert records.read(tmp_path, "mine") == record
    assert records.installed(tmp_path) == [record]
    assert record.paths() == ["w.gguf", "v/a", "v/b", "p", "chat.tmpl"]
    assert record.files[0].sha256 == "ab"
    assert record.files[2].parts == ("a:1", "a:2")


def test_localai_can_read_it(tmp_path: Path) -> None:
    written(tmp_path)
    document = yaml.safe_load((tmp_path / "._gallery_mine.yaml").read_text())
    assert document["config_file"] == "name: mine\n"
    assert document["files"][0] == {"filename": "w.gguf", "sha256": "ab", "uri": "hf://a/b/w.gguf"}
    assert document["prompt_templates"] == [{"name": "chat", "content": "{{.Input}}"}]


def test_entries_are_installed_under_whatever_name(tmp_path: Path) -> None:
    written(tmp_path)
    is_installed = records.installed_entries(tmp_path)
    assert is_installed("g", "org/tiny")
    assert not is_installed("other", "Org/Tiny")
    assert not is_installed("g", "mine")


def test_localais_own_records_match_by_name(tmp_path: Path) -> None:
    (tmp_path / "._gallery_org__bert.yaml").write_text(
        "name: base\nurls: null\nconfig_file: |\n  backend: x\nfiles:\n- filename: w.bin\n  sha256: ''\n  uri: u\n"
        "prompt_templates: null\n"
    )
    assert records.installed(tmp_path) == []
    (tmp_path / "org__bert.yaml").write_text("name: org__bert")
    (record,) = records.installed(tmp_path)
    assert record.paths() == ["w.bin"]
    assert records.installed_entries(tmp_path)("any", "Org/Bert")
    assert not records.installed_entries(tmp_path)("any", "base")


def test_what_came_from_no_gallery_is_no_entry_of_one(tmp_path: Path) -> None:
    written(tmp_path, Plan("bert", config={"name": "bert"}))
    assert not records.installed_entries(tmp_path)("", "bert")
    assert not records.installed_entries(tmp_path)("g", "bert")


def test_a_record_whose_yaml_is_gone_does_not_count(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "mine.yaml").unlink()
    assert records.installed(tmp_path) == []
    assert not records.installed_entries(tmp_path)("g", "Org/Tiny")
    assert len(records.read_all(tmp_path)) == 1


def test_a_model_of_files_alone_is_there_with_them(tmp_path: Path) -> None:
    plan = Plan("files", files=(File("w.gguf", "u"),))
    written(tmp_path, plan, "")
    assert records.installed(tmp_path) == []
    (tmp_path / "w.gguf").touch()
    assert [record.name for record in records.installed(tmp_path)] == ["files"]


@pytest.mark.parametrize("text", ["[a]", "a: [b", "files: 7", "files: [{}]", "prompt_templates: [x]", "\xff"])
def test_a_damaged_record_is_logged_and_counts_as_none(
    tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "._gallery_x.yaml").write_bytes(text.encode("latin-1"))
    (tmp_path / "x.yaml").touch()
    assert records.installed(tmp_path) == []
    assert "._gallery_x.yaml can't be read" in caplog.text


def test_no_models_directory_no_records(tmp_path: Path) -> None:
    assert records.installed(tmp_path / "nowhere") == []
