"""The catalog over real files that come, change, break and go."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.backends.base import Task
from deployments.catalog import Catalog, spec_hash
from deployments.config import ModelConfig, ModelDefaults
from deployments.config_blocks import Parameters


def write(path: Path, text: str) -> Path:
    """Each write has its own time, as on a disk where minutes pass between two edits."""
    earlier = path.stat().st_mtime if path.exists() else 1_700_000_000
    path.write_text(text)
    os.utime(path, (earlier + 1, earlier + 1))
    return path


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog(tmp_path, ModelDefaults())


def test_an_empty_or_missing_folder_has_no_models(tmp_path: Path) -> None:
    catalog = Catalog(tmp_path / "none", ModelDefaults())
    assert not catalog.scan()
    assert catalog.configs == {}


def test_configs_and_loose_weights_are_found(tmp_path: Path, catalog: Catalog) -> None:
    write(tmp_path / "b.yaml", "name: beta\nbackend: echo\n")
    write(tmp_path / "a.yml", "name: alpha\nparameters: {model: used.gguf}\n")
    for name in (
        "used.gguf",
        "loose.GGUF",
        "big-00001-of-00002.gguf",
        "big-00002-of-00002.gguf",
        "README.md",
        ".hid.gguf",
    ):
        write(tmp_path / name, "")
    write(tmp_path / "._gallery_b.yaml", "files: []\n")
    (tmp_path / "folder.yaml").mkdir()
    assert catalog.scan()
    assert list(catalog.configs) == ["alpha", "beta", "big-00001-of-00002.gguf", "loose.GGUF"]
    assert catalog.configs["alpha"].backend == "llama-cpp"
    assert catalog.configs["loose.GGUF"].parameters.model == "loose.GGUF"
    assert catalog.errors == {}


def test_defaults_are_filled_in(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "name: a\nbackend: echo\nparallel: 2\n")
    catalog = Catalog(tmp_path, ModelDefaults(context_size=256))
    catalog.scan()
    assert (catalog.configs["a"].parallel, catalog.configs["a"].context_size) == (2, 256)


def test_only_changes_are_changes(tmp_path: Path, catalog: Catalog) -> None:
    path = write(tmp_path / "a.yaml", "name: a\nbackend: echo\n")
    assert catalog.scan()
    assert not catalog.scan()
    write(path, "name: a\nbackend: echo\nparallel: 4\n")
    assert catalog.scan()
    assert catalog.configs["a"].parallel == 4
    path.unlink()
    assert catalog.scan()
    assert catalog.configs == {}


def test_a_refused_file_is_named_and_the_others_load(
    tmp_path: Path, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.yaml", "name: a\nbackend: echo\n")
    bad = write(tmp_path / "b.yaml", "name: b\nbackend: echo\ncontext_size: abc\n")
    catalog.scan()
    assert list(catalog.configs) == ["a"]
    assert catalog.errors == {str(bad): 'b.yaml: context_size: expected an integer, got "abc"'}
    write(tmp_path / "c.yaml", "name: c\nbackend: echo\n")
    catalog.scan()
    assert [record.getMessage() for record in caplog.records].count(f"refused: {catalog.errors[str(bad)]}") == 1


def test_a_half_written_file_is_read_again_when_it_is_whole(tmp_path: Path, catalog: Catalog) -> None:
    path = write(tmp_path / "a.yaml", 'name: "a')
    catalog.scan()
    assert "not YAML" in catalog.errors[str(path)]
    write(path, 'name: "a"\nbackend: echo\n')
    assert catalog.scan()
    assert (list(catalog.configs), catalog.errors) == (["a"], {})


def test_a_file_that_vanishes_while_it_is_read_is_gone(
    tmp_path: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a.yaml", "name: a\nbackend: echo\n")
    read_text = Path.read_text

    def vanishing(path: Path, encoding: str | None = None) -> str:
        path.unlink()
        return read_text(path, encoding)

    monkeypatch.setattr(Path, "read_text", vanishing)
    assert not catalog.scan()
    assert catalog.errors == {}


def test_bytes_that_are_no_text_are_an_error_and_no_crash(tmp_path: Path, catalog: Catalog) -> None:
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe")
    assert catalog.scan()
    assert "can't be read" in catalog.errors[str(tmp_path / "a.yaml")]
    assert not catalog.scan()


def test_one_bad_config_of_a_list_is_refused_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "models.txt", "- {name: a, backend: echo}\n- {name: b, backend: echo, threads: x}\n")
    catalog = Catalog(tmp_path / "none", ModelDefaults(), path)
    catalog.scan()
    assert list(catalog.configs) == ["a"]
    assert catalog.errors == {str(path): 'models.txt: [1] threads: expected an integer, got "x"'}


def test_the_later_file_of_the_same_name_holds(
    tmp_path: Path, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.yaml", "name: x\nbackend: echo\nparallel: 1\n")
    write(tmp_path / "b.yaml", "name: x\nbackend: echo\nparallel: 2\n")
    catalog.scan()
    assert catalog.configs["x"].parallel == 2
    assert "model x of b.yaml replaces that of a.yaml" in caplog.text


def test_unused_keys_are_reported_once_per_file(
    tmp_path: Path, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    path = write(tmp_path / "a.yaml", "name: a\nbackend: echo\nparameters: {tfz: 1.0}\n")
    catalog.scan()
    write(path, "name: a\nbackend: echo\nparameters: {tfz: 0.5}\n")
    catalog.scan()
    assert [record.getMessage() for record in caplog.records] == [
        "a.yaml: parameters.tfz is accepted and not used: llama.cpp no longer has this option"
    ]


def test_usecases_beside_the_main_one_are_reported_and_not_offered(
    tmp_path: Path, catalog: Catalog, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "a.yaml", "name: a\nbackend: echo\nknown_usecases: [chat, embeddings]\n")
    catalog.scan()
    assert catalog.cards()[0].tasks == [Task.CHAT]
    assert catalog.errors == {}
    assert [record.getMessage() for record in caplog.records] == [
        "a.yaml: known_usecases embeddings is accepted and not used: its replicas are for chat"
    ]


@pytest.mark.parametrize(
    ("architecture", "usecases", "scoring"),
    [
        ("BertForSequenceClassification", "[rerank]", "cross-encoder"),
        ("BertModel", "[rerank]", "cosine"),
        ("BertModel", "[rerank, embeddings]", "cosine"),
        ("BertModel", "[embeddings]", ""),
        (None, "[rerank]", ""),
    ],
)
def test_cards_say_how_a_model_scores(
    tmp_path: Path, catalog: Catalog, architecture: str | None, usecases: str, scoring: str
) -> None:
    if architecture:
        (tmp_path / "model").mkdir()
        write(tmp_path / "model" / "config.json", f'{{"architectures": ["{architecture}"]}}')
        write(tmp_path / "model" / "model.safetensors", "")
    write(tmp_path / "a.yaml", f"name: a\nbackend: echo\nknown_usecases: {usecases}\nparameters: {{model: model}}\n")
    catalog.scan()
    assert catalog.cards()[0].scoring == scoring


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\n", "backend: is missing, and so is parameters.model; backends are: coqui, "),
        ("name: a\nparameters: {model: a.bin}\n", 'parameters.model "a.bin" does not tell which'),
        ("name: a\nbackend: llama-cpp\n", "parameters.model: is missing"),
        ("name: a\nbackend: nope\n", 'unknown backend "nope"'),
    ],
)
def test_a_config_that_can_not_be_run_is_refused_with_the_fix(
    tmp_path: Path, catalog: Catalog, text: str, message: str
) -> None:
    path = write(tmp_path / "a.yaml", text)
    catalog.scan()
    assert message in catalog.errors[str(path)]


def test_aliases(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "name: real\nbackend: echo\n")
    write(tmp_path / "b.yaml", "name: other\nalias: real\n")
    loop = write(tmp_path / "c.yaml", "name: loop\nalias: other\n")
    lost = write(tmp_path / "d.yaml", "name: lost\nalias: nobody\n")
    names = write_aliases(tmp_path, "gpt-4: real\ngpt-4o: not-here\nother: nobody\nreal: nobody\n")
    catalog = Catalog(tmp_path, ModelDefaults(), aliases_file=names)
    catalog.scan()
    assert catalog.aliases == {"other": "real", "gpt-4": "real"}
    assert catalog.errors == {
        str(loop): 'c.yaml: alias: expected the name of a model, but "other" is an alias itself',
        str(lost): 'd.yaml: alias: expected the name of a model, but "nobody" is not installed',
    }


def test_an_alias_of_several_models_is_the_first_installed(tmp_path: Path) -> None:
    names = write_aliases(tmp_path, "gpt-4: [big, small]\ntts-1: [big]\n")
    write(tmp_path / "small.yaml", "name: small\nbackend: echo\n")
    catalog = Catalog(tmp_path, ModelDefaults(), aliases_file=names)
    catalog.scan()
    assert catalog.aliases == {"gpt-4": "small"}
    write(tmp_path / "big.yaml", "name: big\nbackend: echo\n")
    catalog.scan()
    assert catalog.aliases == {"gpt-4": "big", "tts-1": "big"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- gpt-4\n", "expected a mapping such as `gpt-4: my-model`"),
        ("gpt-4: 5\n", "gpt-4: expected the name of a model, or a list of names, got 5"),
        ("gpt-4: [real, 5]\n", "gpt-4: expected the name of a model, or a list of names, got ['real', 5]"),
        ("gpt-4: []\n", "gpt-4: expected the name of a model, or a list of names, got []"),
        ("4: real\n", "4: expected the name of a model, or a list of names, got 'real'"),
        ("gpt-4: [\n", "not YAML"),
    ],
)
def test_mistakes_in_the_file_of_aliases(tmp_path: Path, text: str, message: str) -> None:
    names = write_aliases(tmp_path, text)
    write(tmp_path / "a.yaml", "name: real\nbackend: echo\n")
    catalog = Catalog(tmp_path, ModelDefaults(), aliases_file=names)
    catalog.scan()
    assert catalog.errors[str(names)].startswith(f"aliases.yaml: {message}")
    assert "real" in catalog.configs


def write_aliases(folder: Path, text: str) -> Path:
    """Beside the models directory's files, not among them."""
    (folder / "configs").mkdir()
    return write(folder / "configs" / "aliases.yaml", text)


def test_cards(tmp_path: Path) -> None:
    write(tmp_path / "b.yaml", "name: b\nbackend: echo\ndisabled: true\n")
    write(tmp_path / "c.yaml", "name: a\nalias: b\n")
    write(tmp_path / "0.gguf", "")
    catalog = Catalog(tmp_path, ModelDefaults())
    catalog.scan()
    assert [(card.name, card.alias_of, card.disabled, card.loose, card.backend) for card in catalog.cards()] == [
        ("a", "b", True, False, "echo"),
        ("b", None, True, False, "echo"),
        ("0.gguf", None, False, True, "llama-cpp"),
    ]
    assert {card.created for card in catalog.cards()} == {1_700_000_001}
    assert catalog.cards()[0].tasks == [Task.CHAT]


def test_the_spec_hash_is_the_same_in_every_process_and_sees_every_field() -> None:
    config = ModelConfig(
        name="a", parameters=Parameters(logit_bias={2: 1.0, 1: 0.5}), chat_template_kwargs={"b": 1, "a": 2}
    )
    code = (
        "from deployments.catalog import spec_hash; from deployments.config import ModelConfig; "
        "from deployments.config_blocks import Parameters; print(spec_hash(ModelConfig(name='a', "
        "parameters=Parameters(logit_bias={1: 0.5, 2: 1.0}), chat_template_kwargs={'a': 2, 'b': 1})))"
    )
    other = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=Path(__file__).parents[3]
    )
    assert other.stdout.strip() == spec_hash(config)
    assert spec_hash(ModelConfig(name="a", parameters=Parameters(top_k=1))) != spec_hash(ModelConfig(name="a"))
