"""What the database keeps, on SQLite; tests/cluster/test_postgres.py holds the same against PostgreSQL."""

import multiprocessing
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from deployments.errors import ConfigInvalid, NotReady
from gallery.database import Database
from gallery.status import JobStatus, Phase
from gallery.store import GalleryChange, GalleryStore


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/manta.db"


@pytest.fixture
def store(url: str) -> Iterator[GalleryStore]:
    store = opened(url)
    yield store
    store.close()


def opened(url: str) -> GalleryStore:
    store = GalleryStore(Database(url))
    store.open()
    return store


def status(uuid: str, **fields: object) -> JobStatus:
    return replace(JobStatus(uuid, Phase.QUEUED, "llama"), **fields)  # type: ignore[arg-type]


def test_jobs_outlive_the_process(store: GalleryStore, url: str) -> None:
    first = store.add_job("install", {"id": "llama", "overrides": {"f16": None}}, status("a", created=1.5))
    second = store.add_job("delete", {"name": "llama"}, status("b", deletion=True))
    assert first.number < second.number
    store.set_plan("a", {"name": "llama"})
    big = status(
        "a",
        phase=Phase.DOWNLOADING,
        model="Lla\0ma",
        file_name="llama.gguf",
        current_bytes=5 << 40,
        total_bytes=6 << 40,
        warnings=("mind the gap",),
        created=1.5,
        updated=2.25,
    )
    store.set_statuses([big, status("b", phase=Phase.FAILED, error="no")])
    store.set_cancelled("a")
    store.close()

    again = opened(url)
    a, b = again.jobs()
    assert (a.kind, a.request, a.plan) == ("install", first.request, {"name": "llama"})
    assert a.cancelled and not b.cancelled
    assert a.status == replace(big, model="Llama"), "a NUL would make PostgreSQL refuse the job"
    assert (b.number, b.status.phase, b.status.error, b.status.created) == (second.number, Phase.FAILED, "no", 0)
    again.forget_jobs(["b", "unheard-of"])
    assert [job.status.uuid for job in again.jobs()] == ["a"]
    again.close()


@pytest.mark.parametrize("phase", [Phase.COMPLETED, Phase.FAILED, Phase.CANCELLED])
def test_a_job_that_has_ended_keeps_no_plan(store: GalleryStore, phase: Phase) -> None:
    store.add_job("install", {}, status("a"))
    store.set_plan("a", {"name": "llama"})
    store.set_statuses([status("a", phase=Phase.DOWNLOADING)])
    assert store.jobs()[0].plan == {"name": "llama"}
    store.set_statuses([status("a", phase=phase)])
    assert store.jobs()[0].plan is None


def test_changes_of_galleries(store: GalleryStore) -> None:
    mine = GalleryChange("mine", "https://example.com/index.yaml", allow_pickles=True)
    gone = GalleryChange("localai", "", instead_of="github:mudler/LocalAI/gallery/index.yaml")
    store.set_gallery_change(mine)
    store.set_gallery_change(gone)
    assert store.gallery_changes() == [mine, gone]
    store.set_gallery_change(replace(mine, url="https://example.com/other.yaml"))
    assert [change.url for change in store.gallery_changes()] == ["", "https://example.com/other.yaml"]
    store.forget_gallery_change("localai")
    store.forget_gallery_change("unheard-of")
    assert [change.name for change in store.gallery_changes()] == ["mine"]


def open_and_add(url: str, uuid: str) -> None:
    store = opened(url)
    store.add_job("install", {}, status(uuid))
    store.close()


def test_several_processes_may_start_at_once(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=open_and_add, args=(url, str(i))) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    store = opened(url)
    assert {job.status.uuid for job in store.jobs()} == {"0", "1", "2", "3"}
    assert len({job.number for job in store.jobs()}) == 4
    store.close()


def test_readers_do_not_wait_for_a_writer(store: GalleryStore, tmp_path: Path) -> None:
    store.add_job("install", {}, status("a"))
    writer = sqlite3.connect(tmp_path / "data" / "manta.db", isolation_level=None)
    try:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE jobs SET model = 'other'")
        assert store.jobs()[0].status.model == "llama"
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "not the URL of a database"),
        ("manta.db", "not the URL of a database"),
        ("postgresql://user:secret@host:port/db", "not the URL of a database"),
        ("mysql://user:secret@host/db", "'mysql' is not supported"),
        ("postgresql+asyncpg://user:secret@host/db", r"'postgresql\+asyncpg' is not supported"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
    ],
)
def test_a_url_that_cannot_be_one(url: str, said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said) as raised:
        Database(url)
    assert raised.value.message.startswith("database_url: ")
    assert "sqlite:////path/to/manta.db" in raised.value.message
    assert "secret" not in raised.value.message


def test_a_file_that_is_no_database(url: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manta.db").write_text("Dear diary, " * 100)
    with pytest.raises(ConfigInvalid, match=r"database_url: .*manta\.db can't be used as an SQLite database: file is"):
        opened(url)


def test_a_folder_that_cannot_be_made(url: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(ConfigInvalid, match=r"database_url: .*data: "):
        opened(url)


def test_a_server_that_is_not_there() -> None:
    store = GalleryStore(Database("postgresql://manta:secret@127.0.0.1:9/manta?sslpassword=secret"))
    with pytest.raises(NotReady) as raised:
        store.open()
    assert raised.value.message.startswith("postgresql+psycopg://manta:***@127.0.0.1:9/manta, the database of")
    assert "database_url" in raised.value.message and "onnection refused" in raised.value.message
    assert "secret" not in raised.value.message
    store.close()
