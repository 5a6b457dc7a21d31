"""The server's state in PostgreSQL, in a real server that this module starts and ends."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from deployments.errors import NotReady
from gallery.database import Database
from gallery.store import GalleryStore
from tests.serving import eventually

# What holds for SQLite holds here: the same tests, with this module's `url`.
from tests.unit.api.test_records import (  # noqa: F401
    assistants,  # the fixtures
    files,
    records,
    test_a_file_is_kept_and_goes,
    test_a_file_that_goes_while_it_is_attached,
    test_an_answer_of_the_database_that_is_lost_loses_no_content,
    test_an_assistant_has_so_many_files_at_most,
    test_an_assistant_is_kept_changed_and_goes,
    test_an_upload_that_was_swept_meanwhile_is_none,
    test_changes_at_once_all_count,
    test_files_of_an_assistant,
    test_files_that_are_not_there,
    test_ids_never_come_again,
    test_of_those_who_upload_a_name_at_once_one_wins,
    test_pages_of_assistants,
    test_pages_of_files,
    test_several_ingresses_may_begin_at_once,
    test_what_can_be_no_file,
)
from tests.unit.api.test_stores import (  # noqa: F401
    others,  # the fixtures
    others_records,
    stores,
    test_a_key_has_one_value_the_last,
    test_an_empty_store_takes_keys_of_another_length,
    test_another_ingress_sees_every_change,
    test_deletions_are_forgotten_and_yet_seen,
    test_every_text_is_a_value,
    test_stores_are_apart,
    test_two_that_write_at_once_lose_nothing,
)
from tests.unit.gallery.test_store import (  # noqa: F401
    opened,
    status,
    store,  # the fixture
    test_a_job_that_has_ended_keeps_no_plan,
    test_changes_of_galleries,
    test_jobs_outlive_the_process,
    test_several_processes_may_start_at_once,
)

PASSWORD = "correct-horse"
DEBIANS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Postgres:
    """A PostgreSQL server with its data in a folder of its own. As root it runs as `nobody`: it refuses root."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self._as: dict[str, Any] = {"user": "nobody", "group": "nogroup"} if os.geteuid() == 0 else {}
        if self._as:
            shutil.chown(folder, **self._as)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[Any] | None = None
        password = folder / "password"
        password.write_text(PASSWORD)
        access = f"--username=manta --pwfile={password} --auth=scram-sha-256 --no-sync".split()
        subprocess.run([programs / "initdb", f"--pgdata={folder}/data", *access], check=True, cwd=folder, **self._as)

    def start(self) -> None:
        options = f"-D {self._folder}/data -p {self.port} -h 127.0.0.1 -k {self._folder} -c fsync=off".split()
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", *options], stdout=log, stderr=log, cwd=self._folder, **self._as
            )
        eventually(self._answers)

    def stop(self) -> None:
        """At once, its clients' connections included."""
        if self._process:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(30)

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql://manta:{password}@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """A new one; its URL."""
        name = f"manta_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name)

    def _answers(self) -> bool:
        assert self._process and self._process.poll() is None, (self._folder / "log").read_text()
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    on_path = shutil.which("postgres")
    found = [path for path in (*([Path(on_path).parent] if on_path else []), *DEBIANS) if (path / "initdb").exists()]
    if not found:
        pytest.skip("POSTGRESQL IS NOT TESTED: it is not installed (apt install postgresql)")
    with tempfile.TemporaryDirectory(prefix="manta-postgres-") as folder:
        server = Postgres(found[0], Path(folder))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def url(postgres: Postgres) -> str:
    return postgres.create_database()


def test_a_wrong_password(postgres: Postgres) -> None:
    jobs = GalleryStore(Database(postgres.url("postgres", "wrong")))
    with pytest.raises(NotReady, match=r"database_url, can't be used: .*password authentication failed") as raised:
        jobs.open()
    assert "wrong@" not in raised.value.message
    jobs.close()


def test_a_database_that_does_not_exist(postgres: Postgres) -> None:
    jobs = GalleryStore(Database(postgres.url("nowhere")))
    with pytest.raises(NotReady, match='database "nowhere" does not exist'):
        jobs.open()
    jobs.close()


def test_over_the_socket(postgres: Postgres) -> None:
    folder = postgres._folder
    with psycopg.connect(host=str(folder), port=postgres.port, user="manta", password=PASSWORD, dbname="postgres"):
        jobs = opened(f"postgresql://manta:{PASSWORD}@/postgres?host={folder}&port={postgres.port}")
    jobs.close()


def test_the_server_may_restart(postgres: Postgres, url: str) -> None:
    jobs = opened(url)
    jobs.add_job("install", {}, status("a"))
    postgres.stop()
    postgres.start()
    assert [job.status.uuid for job in jobs.jobs()] == ["a"], "who asked nothing meanwhile notices nothing"
    postgres.stop()
    with pytest.raises(NotReady):
        jobs.jobs()
    postgres.start()
    assert [job.status.uuid for job in jobs.jobs()] == ["a"]
    jobs.add_job("install", {}, status("b"))
    jobs.close()
