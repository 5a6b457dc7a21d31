"""What operators see and do on a running server: monitor, shutdown, load, and a machine that joins and leaves."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.serving import PROJECT, Server, eventually


def post(server: Server, path: str, **body: Any) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json=body)


def get(server: Server, path: str, **query: str) -> Any:
    with server.client() as client:
        return client.get(path, params=query).raise_for_status().json()


def say(model: str, text: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


def test_a_shutdown_lets_running_streams_end_and_the_next_request_loads_again(server: Server) -> None:
    server.write_model("watched", options='["delay:0.02", "repeat:20"]', preload="true")
    answers: list[httpx.Response] = []
    assert post(server, "/backend/load", model="watched").json()["loaded"] == ["watched"]
    streaming = threading.Thread(
        target=lambda: answers.append(post(server, "/v1/chat/completions", **say("watched", stream=True)))
    )
    streaming.start()

    def busy() -> dict[str, Any] | None:
        status: dict[str, Any] = get(server, "/backend/monitor", model="watched")
        return status if status["state"] == 1 and status["in_flight"] == 1 else None

    status = eventually(busy)
    (replica,) = status["replicas"]
    process = server.replica("watched")
    assert process is not None
    assert replica["pid"] == process.pid
    assert status["memory"]["total"] == status["memory"]["breakdown"]["rss"] > 20 * 2**20

    assert post(server, "/backend/shutdown", model="watched").json() == {"message": "model stopped"}
    streaming.join(30)
    text = answers[0].text
    assert text.endswith("data: [DONE]\n\n"), "the stream ended whole"
    assert '"finish_reason":"stop"' in text
    assert server.replica("watched") is None
    assert get(server, "/backend/monitor", model="watched")["status"] == "absent", "preloaded or not"
    assert post(server, "/backend/shutdown", model="watched").status_code == 404
    assert "watched" not in str(get(server, "/system"))

    assert post(server, "/v1/chat/completions", **say("watched")).status_code == 200
    assert {"id": "watched", "backend": "echo"} in get(server, "/system")["loaded_models"]
    server.remove_model("watched")


@contextmanager
def joined(server: Server, directory: Path) -> Iterator[None]:
    """Another Ray node on this machine, as `make join` runs it; at the end Ctrl-C, which must leave no process."""
    with server.client() as client:
        token = client.get("/api/p2p/token").raise_for_status().text
    environ = {**os.environ, "TOKEN": token, "MANTA_DATA_PATH": str(directory), "RAY_AUTH_TOKEN_PATH": "/nowhere"}
    with (directory / "join.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api.join"],
            cwd=PROJECT,
            env=environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    everything: list[psutil.Process] = []
    try:
        yield
    finally:
        if process.poll() is None:
            everything = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGINT)
        process.wait(60)
        _, left = psutil.wait_procs(everything, timeout=1)
        for survivor in left:
            survivor.kill()
    assert not left, f"processes outlived Ctrl-C: {left}"
    assert process.returncode == 0, (directory / "join.log").read_text()


def nodes(server: Server) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = get(server, "/api/p2p", format="object")["nodes"]
    return found


def test_a_machine_joins_runs_a_model_and_leaves(server: Server, tmp_path: Path) -> None:
    assert post(server, "/backend/load", model="echo").status_code == 200
    (head,) = nodes(server)
    assert head["available"]["CPU"] < head["resources"]["CPU"]
    federated = [node["id"] for node in get(server, "/api/p2p")[0]["federated_nodes"]]
    assert federated == [head["id"]]
    server.write_model("wide", num_cpus=head["resources"]["CPU"])
    with joined(server, tmp_path):
        head, worker = eventually(lambda: found if len(found := nodes(server)) == 2 else None)
        assert post(server, "/v1/chat/completions", **say("wide")).status_code == 200
        placed = get(server, "/backend/monitor", model="wide")["replicas"][0]["node"]
        assert placed == worker["id"] != head["id"]
    eventually(lambda: [node["id"] for node in nodes(server)] == [head["id"]])
    server.remove_model("wide")
