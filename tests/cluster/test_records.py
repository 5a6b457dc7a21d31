"""Files and assistants on a running server: both ingresses answer alike, and a killed one loses and leaves nothing."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import psutil
import pytest

from api.files import Files
from api.records import Records
from gallery.folder_blobs import FolderBlobs
from tests.serving import KEY, Server, eventually

INGRESS = "ServeReplica:api:Ingress"
CONTENT = os.urandom(3 << 20)


@pytest.fixture
def file_id(server: Server) -> Iterator[str]:
    with server.client() as client:
        upload = client.post("/v1/files", files={"file": ("a.bin", CONTENT)}, data={"purpose": "user_data"})
        file_id = upload.json()["id"]
        yield file_id
        assert client.delete(f"/v1/files/{file_id}").json()["deleted"]


def uploads(server: Server) -> Path:
    return server.data_path / "blobs" / "uploads"


def receiving(server: Server) -> psutil.Process | None:
    """The ingress that is writing an upload."""
    for process in server.processes(INGRESS):
        if any(file.path.endswith(".partial") for file in process.open_files()):
            return process
    return None


def sweep(server: Server) -> int:
    """As the gallery's process does when what is left is some hours old."""

    async def swept() -> int:
        files = Files(Records(f"sqlite:///{server.data_path}/manta.db"), FolderBlobs(uploads(server), ttl=0))
        try:
            return await files.sweep(older_than=-1)
        finally:
            await files.close()

    return asyncio.run(swept())


def test_every_ingress_answers_alike(server: Server, file_id: str) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)
    with server.client() as http:
        created = http.post("/v1/assistants", json={"model": "echo", "name": "Ann", "file_ids": [file_id]}).json()
        for _ in range(20):  # the proxy takes the one that has the least to do
            assert http.get(f"/v1/assistants/{created['id']}").json() == created
            assert [file.id for file in client.files.list(limit=1)] == [file_id]
        assert client.files.content(file_id).content == CONTENT
        assert http.delete(f"/v1/assistants/{created['id']}").json()["deleted"]
        assert {http.get(f"/v1/assistants/{created['id']}").status_code for _ in range(20)} == {404}


def test_an_ingress_is_killed_in_the_middle_of_an_upload(server: Server, file_id: str) -> None:
    release = threading.Event()
    outcomes: list[object] = []

    def body() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="half.bin"\r\n\r\n' + CONTENT
        release.wait(60)

    def upload() -> None:
        try:
            with server.client() as client:
                form = {"Content-Type": "multipart/form-data; boundary=x"}
                outcomes.append(client.post("/v1/files", content=body(), headers=form).status_code)
        except httpx.TransportError as error:
            outcomes.append(error)

    sender = threading.Thread(target=upload)
    sender.start()
    try:
        eventually(lambda: receiving(server)).kill()
    finally:
        release.set()
        sender.join(60)
    (outcome,) = outcomes
    assert isinstance(outcome, httpx.TransportError) or (isinstance(outcome, int) and outcome >= 500)

    assert [path.name for path in uploads(server).glob(".*")] != [], "nobody could tidy up"
    assert sweep(server) == 1
    assert [path.name for path in uploads(server).iterdir()] == [file_id]
    eventually(lambda: len(server.processes(INGRESS)) == 2)
    with server.client() as client:
        eventually(lambda: client.get("/v1/files").status_code == 200)
        assert [file["id"] for file in client.get("/v1/files").json()["data"]] == [file_id]
        assert client.get(f"/v1/files/{file_id}/content").content == CONTENT
