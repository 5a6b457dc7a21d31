"""Installation with a source that is a dict, and once by two processes at a time."""

import hashlib
import multiprocessing
import os
from pathlib import Path

import pytest
import yaml

from deployments.errors import ConfigInvalid, DownloadFailed, InsufficientStorage, ModelNotFound
from gallery import sources
from gallery.index import Entry, File
from gallery.install import install, install_starter
from gallery.sources.base import Report

WEIGHTS = b"weights" * 1000


class FromMemory:
    """A source over a dict, which remembers what was asked for."""

    files: dict[str, bytes]
    fetched: list[str]

    def fetch(self, uri: str, to: Path, report: Report) -> None:
        self.fetched.append(uri)
        content = self.files[uri]
        report(0, len(content))
        to.write_bytes(content)
        report(len(content), len(content))


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> type[FromMemory]:
    monkeypatch.setattr(FromMemory, "files", {"memory://weights": WEIGHTS}, raising=False)
    monkeypatch.setattr(FromMemory, "fetched", [], raising=False)
    monkeypatch.setitem(sources.SOURCES, "memory", FromMemory)
    return FromMemory


def entry(filename: str = "tiny.gguf", *, name: str = "tiny", sha256: str | None = None) -> Entry:
    digest = hashlib.sha256(WEIGHTS).hexdigest() if sha256 is None else sha256
    file = File(filename, "memory://weights", digest)
    return Entry(name, {"backend": "echo", "parameters": {"model": filename}}, [file])


def test_writes_the_files_and_then_the_yaml(memory, tmp_path: Path) -> None:
    path = install(entry("sub/tiny.gguf"), tmp_path / "models")
    assert (tmp_path / "models/sub/tiny.gguf").read_bytes() == WEIGHTS
    assert path == tmp_path / "models/tiny.yaml"
    assert yaml.safe_load(path.read_text()) == {
        "name": "tiny",
        "backend": "echo",
        "parameters": {"model": "sub/tiny.gguf"},
    }


def test_the_second_time_nothing_is_fetched(memory, tmp_path: Path) -> None:
    install(entry(), tmp_path)
    install(entry(), tmp_path)
    assert memory.fetched == ["memory://weights"]


def test_progress_names_the_file_and_ends_at_all_of_it(memory, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    install(entry(), tmp_path, lambda *at: seen.append(at))
    assert seen[-1] == ("tiny.gguf", len(WEIGHTS), len(WEIGHTS))


def test_a_damaged_file_is_fetched_again(memory, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"half of")
    install(entry(), tmp_path)
    assert (tmp_path / "tiny.gguf").read_bytes() == WEIGHTS


def test_a_file_that_is_not_the_promised_one_is_refused_and_leaves_no_model(memory, tmp_path: Path) -> None:
    with pytest.raises(DownloadFailed, match=r"tiny\.gguf: sha256 is"):
        install(entry(sha256="0" * 64), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == []


def test_a_yaml_of_the_users_own_is_left_as_it_is(memory, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text("name: tiny\nthreads: 7\n")
    install(entry(), tmp_path)
    assert (tmp_path / "tiny.yaml").read_text() == "name: tiny\nthreads: 7\n"
    assert (tmp_path / "tiny.gguf").exists()


@pytest.mark.parametrize("filename", ["../tiny.gguf", "/tmp/tiny.gguf", "sub/../../tiny.gguf", "link/tiny.gguf", "."])
def test_an_index_does_not_lead_out_of_the_models_directory(memory, tmp_path: Path, filename: str) -> None:
    models = tmp_path / "models"
    models.mkdir()
    (models / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigInvalid, match="leads out"):
        install(entry(filename), models)
    assert memory.fetched == []
    assert not (tmp_path / "tiny.gguf").exists()


def test_a_name_with_a_slash_stays_in_the_models_directory(memory, tmp_path: Path) -> None:
    assert install(entry(name="../evil/tiny"), tmp_path) == tmp_path / "..__evil__tiny.yaml"


def test_an_address_of_no_known_scheme_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match=r"carrier://pigeon: no source"):
        install(Entry("tiny", {"backend": "echo"}, [File("tiny.gguf", "carrier://pigeon")]), tmp_path)


def test_a_full_disk_is_said_before_it_is_full(memory, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Disk:
        free = 1_000_000

    monkeypatch.setattr("shutil.disk_usage", lambda folder: Disk)
    with pytest.raises(InsufficientStorage, match="0 MB more are needed, 1 MB are free"):
        install(entry(), tmp_path)
    assert not (tmp_path / "tiny.gguf.partial").exists()


def _install_slowly(models: Path, log: Path, started: "multiprocessing.synchronize.Barrier") -> None:
    class Slow:
        def fetch(self, uri: str, to: Path, report: Report) -> None:
            with log.open("a") as lines:
                lines.write(f"{os.getpid()}\n")
            to.write_bytes(WEIGHTS)

    sources.SOURCES["memory"] = Slow
    started.wait(timeout=30)
    install(entry(), models)


def test_of_two_processes_one_downloads(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("fork")
    started = spawn.Barrier(2)
    log = tmp_path / "fetched.log"
    processes = [spawn.Process(target=_install_slowly, args=(tmp_path / "models", log, started)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(log.read_text().splitlines()) == 1
    assert (tmp_path / "models/tiny.yaml").exists()


@pytest.mark.parametrize("present", ["mine.yaml", "mine.yml", "mine.gguf"])
def test_no_starter_model_where_there_is_a_model(tmp_path: Path, present: str) -> None:
    (tmp_path / present).touch()
    assert install_starter(tmp_path, "smollm2-135m-instruct") is None


def test_no_starter_model_where_none_is_wanted(tmp_path: Path) -> None:
    assert install_starter(tmp_path, "") is None


def test_a_starter_model_that_the_gallery_does_not_hold_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no-such-model"):
        install_starter(tmp_path / "models", "no-such-model")
