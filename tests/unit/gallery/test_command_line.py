"""`python -m gallery`, as a user runs it: on a server that answers, and without one."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import uvicorn
import yaml
from pydantic import SecretStr
from typer.testing import CliRunner, Result

import gallery.client
from api.http import create_app
from api.settings import Settings
from deployments.errors import NotReady
from gallery.__main__ import app
from gallery.database import Database
from gallery.status import JobStatus, Phase
from gallery.store import GalleryStore
from tests.file_server import FileServer
from tests.unit.local_cluster import LocalCluster
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.local_gallery import DONE, FAILED, QUEUED, RUNNING, LocalGallery, listed

PROJECT = Path(__file__).resolve().parents[3]
KEY = "secret"
Environment = dict[str, str]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.01)


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    """Settings that know of nothing outside the test; no server answers at their address."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"127.0.0.1:{unused.getsockname()[1]}"
    variables = {
        "MANTA_ADDRESS": address,
        "MANTA_MODELS_PATH": str(tmp_path / "models"),
        "MANTA_DATA_PATH": str(tmp_path / "data"),
        "MANTA_GALLERIES": json.dumps([{"name": "ours", "url": (tmp_path / "index.yaml").as_uri()}]),
        "MANTA_FILE_ROOTS": str(tmp_path),
        "MANTA_DOWNLOAD_ALLOW": "127.0.0.1",
        "MANTA_DOWNLOAD_RETRIES": "1",
        "MANTA_MIN_FREE_DISK_MB": "0",
    }
    for name in ("MANTA_SERVER", "MANTA_CONFIG", "MANTA_API_KEYS", "LOCALAI_API_KEY", "API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return variables


# ---- without a server ------------------------------------------------------------------------------------------------


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def write_index(folder: Path, **models: str) -> None:
    """An index of models by name, each of one file at that address."""
    entries = [
        {
            "name": name,
            "description": f"a {name} model\nwith more to say",
            "tags": ["chat"],
            "config_file": {"backend": "echo", "parameters": {"model": f"{name}.gguf"}},
            "files": [{"filename": f"{name}.gguf", "uri": uri}],
        }
        for name, uri in models.items()
    ]
    (folder / "index.yaml").write_text(yaml.safe_dump(entries))


def installed_files(folder: Path) -> set[str]:
    """All that a user sees in the models directory."""
    return {path.name for path in (folder / "models").glob("*")} if (folder / "models").exists() else set()


def test_install_list_and_remove(environment: Environment, files: FileServer, tmp_path: Path) -> None:
    write_index(tmp_path, tiny=files.add("tiny.gguf", content=b"weights"), other="https://example.org/other.gguf")
    before = run("list")
    assert before.stdout == "  ours@tiny  a tiny model\n  ours@other  a other model\n"
    assert "without a server" in before.stderr

    done = run("install", "TINY")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "installed: tiny"
    assert (tmp_path / "models/tiny.gguf").read_bytes() == b"weights"
    assert yaml.safe_load((tmp_path / "models/tiny.yaml").read_text())["parameters"] == {"model": "tiny.gguf"}
    assert run("list").stdout == "* ours@tiny  a tiny model\n  ours@other  a other model\n"
    assert run("list", "--installed").stdout == "* ours@tiny  a tiny model\n"

    gone = run("remove", "tiny")
    assert (gone.exit_code, gone.stdout.splitlines()[-1]) == (0, "removed: tiny")
    assert not {"tiny.gguf", "tiny.yaml"} & installed_files(tmp_path)


def test_install_under_another_name(environment: Environment, files: FileServer, tmp_path: Path) -> None:
    write_index(tmp_path, tiny=files.add("tiny.gguf", content=b"weights"))
    assert run("install", "ours@tiny", "--name", "mine").stdout.splitlines()[-1] == "installed: mine"
    assert yaml.safe_load((tmp_path / "models/mine.yaml").read_text())["name"] == "mine"


def test_install_by_address(environment: Environment, files: FileServer, tmp_path: Path) -> None:
    write_index(tmp_path)
    done = run("install", files.add("loose.gguf", content=b"weights"))
    assert done.exit_code == 0, done.output
    assert (tmp_path / "models/loose.gguf").read_bytes() == b"weights"
    assert yaml.safe_load((tmp_path / "models/loose.yaml").read_text())["backend"] == "llama-cpp"


def test_another_models_directory(environment: Environment, files: FileServer, tmp_path: Path) -> None:
    write_index(tmp_path, tiny=files.add("tiny.gguf", content=b"weights"))
    assert run("install", "tiny", "--models-path", "elsewhere").exit_code == 0
    assert (tmp_path / "elsewhere/tiny.yaml").exists()
    assert installed_files(tmp_path) == set()


def test_what_fails_is_one_line_and_leaves_nothing(environment: Environment, files: FileServer, tmp_path: Path) -> None:
    write_index(tmp_path, gone=files.add("gone.gguf", status=404))
    failed = run("install", "gone")
    assert failed.exit_code == 1
    assert "404" in failed.stderr.splitlines()[-1]
    assert "Traceback" not in failed.output
    assert {name for name in installed_files(tmp_path) if not name.startswith(".")} == set()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("install", "no-such"), "no model found with name 'no-such'"),
        (("remove", "no-such"), "no-such"),
        (("list", "--gallery", "no-such"), "no-such"),
        (("jobs", "cancel", "no-such"), "no-such"),
        (("install", "carrier://pigeon/x.gguf"), "carrier"),
    ],
)
def test_what_is_not_there_is_named(
    environment: Environment, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    write_index(tmp_path)
    failed = run(*arguments)
    assert failed.exit_code == 1
    assert failed.stdout == ""
    assert reason in failed.stderr.splitlines()[-1]


def test_search_in_names_descriptions_and_tags(environment: Environment, tmp_path: Path) -> None:
    write_index(tmp_path, tiny="https://example.org/t.gguf", large="https://example.org/l.gguf")
    assert run("search", "LARGE", "chat").stdout == "  ours@large  a large model\n"
    assert run("search", "large", "--tag", "vision").stdout == ""


def test_a_gallery_that_cannot_be_read_is_named(
    environment: Environment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_index(tmp_path, tiny="https://example.org/t.gguf")
    away = {"name": "away", "url": (tmp_path / "away.yaml").as_uri()}
    monkeypatch.setenv("MANTA_GALLERIES", json.dumps([*json.loads(environment["MANTA_GALLERIES"]), away]))
    shown = run("list")
    assert shown.exit_code == 0
    assert shown.stdout == "  ours@tiny  a tiny model\n"
    assert "gallery away: " in shown.stderr


def test_a_wrong_setting_is_one_line(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANTA_PARALLEL_JOBS", "many")
    failed = run("list")
    assert failed.exit_code == 1
    assert "MANTA_PARALLEL_JOBS" in failed.stderr


def test_the_jobs_a_server_left(environment: Environment, tmp_path: Path) -> None:
    store = GalleryStore(Database(f"sqlite:///{tmp_path}/data/manta.db"))
    store.open()
    for status in (DONE, FAILED, RUNNING):
        store.add_job("install", {}, status)
    lines = run("jobs").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["u-2", "u-3", "u-1"]
    assert "install tiny  completed" in lines[0]
    assert lines[1].endswith("failed  GET https://x/y: 404 Not Found")
    assert lines[2].endswith("downloading  50%")

    assert "will be cancelled" in run("jobs", "cancel", "u-1").stdout
    assert [record.cancelled for record in store.jobs()] == [False, False, True]
    assert "has ended" in run("jobs", "cancel", "u-2").stderr
    store.close()


@contextmanager
def started(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, for Ctrl-C."""
    command = [sys.executable, "-m", "gallery", *arguments]
    env = {**os.environ, **variables, "PYTHONPATH": str(PROJECT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.kill()


def test_ctrl_c_keeps_what_was_fetched(environment: Environment, files: FileServer, tmp_path: Path) -> None:
    size = 24 << 20
    write_index(tmp_path, large=files.add("large.gguf", size=size, rate=16 << 20))
    with started("install", "large") as process:
        until(lambda: files.served["/large.gguf"] > 12 << 20)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "What was fetched is kept for the next try."

    files.add("large.gguf", size=size)
    done = run("install", "large")
    assert done.exit_code == 0, done.output
    assert files.served["/large.gguf"] < size + (10 << 20)
    assert {name for name in installed_files(tmp_path) if name.endswith(("partial", "json"))} == set()


# ---- on a server -----------------------------------------------------------------------------------------------------


@pytest.fixture
def jobs() -> LocalGallery:
    return LocalGallery()


@pytest.fixture
def server(
    environment: Environment, jobs: LocalGallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The real routes before scripted jobs, on a real socket; the command has the key. Yields the address."""
    settings = Settings(models_path=tmp_path, data_path=tmp_path, api_keys=(SecretStr(KEY),))
    served = create_app(settings, LocalDispatch(), jobs, LocalCluster())
    listener = socket.create_server(("127.0.0.1", 0))
    http = uvicorn.Server(uvicorn.Config(served, log_config=None, lifespan="off"))
    thread = threading.Thread(target=http.run, args=([listener],))
    thread.start()
    until(lambda: http.started)
    monkeypatch.setenv("API_KEY", KEY)
    monkeypatch.setattr(gallery.client, "RETRY_S", 0.01)
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    http.should_exit = True
    thread.join(timeout=20)
    assert not thread.is_alive()


def test_install_on_a_server(server: str, jobs: LocalGallery) -> None:
    done = run("install", "test@tiny", "--name", "mine", "--server", server)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[-1] == "installed: tiny"
    assert "unknown key foo" in done.output
    assert f"on the server {server}" in done.stderr
    (request,) = jobs.requests
    assert (request.id, request.name, request.weights_uri) == ("test@tiny", "mine", "")


def test_install_by_address_on_a_server(server: str, jobs: LocalGallery) -> None:
    assert run("install", "hf://org/repo/m.gguf", "--name", "mine", "--server", server).exit_code == 0
    (request,) = jobs.requests
    assert (request.id, request.name, request.weights_uri) == ("", "mine", "hf://org/repo/m.gguf")


def test_the_server_of_the_settings_is_used_when_it_answers(
    server: str, jobs: LocalGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MANTA_ADDRESS", server.removeprefix("http://"))
    shown = run("list")
    assert shown.stdout == "  test@one\n"
    assert f"on the server {server}" in shown.stderr
    assert jobs.wanted
    jobs.wanted.clear()
    assert "without a server" in run("list", "--offline").stderr
    assert not jobs.wanted


def test_a_job_that_fails_is_the_commands_failure(server: str, jobs: LocalGallery) -> None:
    jobs.script = [QUEUED, FAILED]
    failed = run("install", "tiny", "--server", server)
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1] == FAILED.error


def test_a_cancelled_job_too(server: str, jobs: LocalGallery) -> None:
    jobs.script = [RUNNING, replace(RUNNING, phase=Phase.CANCELLED)]
    failed = run("install", "tiny", "--server", server)
    assert (failed.exit_code, failed.stderr.splitlines()[-1]) == (1, "the job was cancelled")


def test_events_are_taken_up_again_after_a_break(
    server: str, jobs: LocalGallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts: list[list[JobStatus | Exception]] = [
        [NotReady("the gallery restarts")],
        [QUEUED, NotReady("again")],
        [RUNNING],
    ]
    once = jobs.events

    async def events(uuid: str):  # type: ignore[no-untyped-def]
        jobs.script = [*scripts.pop(0)] if scripts else [DONE]
        async for status in once(uuid):
            yield status

    monkeypatch.setattr(jobs, "events", events)
    done = run("install", "tiny", "--server", server)
    assert done.exit_code == 0, done.output
    assert scripts == []


def test_remove_on_a_server(server: str) -> None:
    assert run("remove", "org/model.gguf", "--server", server).stdout.splitlines()[-1] == "removed: org/model.gguf"
    failed = run("remove", "no-such", "--server", server)
    assert (failed.exit_code, failed.stderr.splitlines()[-1]) == (1, "no model 'no-such' is installed")


def test_list_and_search_on_a_server(server: str, jobs: LocalGallery) -> None:
    jobs.models = [listed("one", installed=True, description="the first\nof all"), listed("two")]
    jobs.unreadable = {"test": "404"}
    shown = run("search", "a", "b", "--tag", "chat", "--gallery", "test", "--server", server)
    assert shown.stdout == "* test@one  the first\n  test@two\n"
    assert "gallery test: 404" in shown.stderr
    (wanted,) = jobs.wanted
    assert (wanted.search, wanted.tag, wanted.gallery, wanted.limit) == ("a b", "chat", "test", None)


def test_jobs_on_a_server(server: str) -> None:
    lines = run("jobs", "--server", server).stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["u-1", "u-2", "u-3", "u-4"]
    assert run("jobs", "cancel", "u-1", "--server", server).stdout.rstrip().endswith("install tiny  cancelled")
    for uuid, reason in (("u-2", "completed"), ("u-9", "no job u-9")):
        failed = run("jobs", "cancel", uuid, "--server", server)
        assert failed.exit_code == 1
        assert reason in failed.stderr.splitlines()[-1]


def test_without_the_key_the_server_says_so(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("API_KEY")
    failed = run("jobs", "--server", server)
    assert failed.exit_code == 1
    assert "API_KEY" in failed.stderr.splitlines()[-1]


def test_a_server_that_is_not_there(environment: Environment) -> None:
    address = f"http://{environment['MANTA_ADDRESS']}"
    failed = run("list", "--server", address)
    assert failed.exit_code == 1
    assert failed.stderr.splitlines()[-1].startswith(f"{address} can't be reached: ")


def test_what_is_no_manta_server(environment: Environment, files: FileServer) -> None:
    page = files.add("models/jobs", content=b"<html>")
    failed = run("jobs", "--server", page.removesuffix("/models/jobs"))
    assert failed.exit_code == 1
    assert "is a Manta server there?" in failed.stderr


def test_ctrl_c_leaves_the_job_to_the_server(server: str, jobs: LocalGallery) -> None:
    jobs.script = [RUNNING, asyncio.Event()]
    with started("install", "tiny", "--server", server) as process:
        until(lambda: jobs.requests and "50" in (process.stdout.readline() if process.stdout else ""))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "The job goes on. To end it: python -m gallery jobs cancel u-1"
