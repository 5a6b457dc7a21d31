"""A running server for tests: the launcher as a user starts it, on a free port, in directories of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

PROJECT = Path(__file__).resolve().parents[1]
KEY = "sk-test-key"


def eventually(condition: Callable[[], Any], seconds: float = 60, period: float = 0.1) -> Any:
    """The first true value of `condition`; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(period)
    return value


@dataclass
class Server:
    """What a test knows of the server: where it is, its directories, its processes."""

    url: str
    models_path: Path
    data_path: Path
    config_path: Path
    """Where `api_keys.json` may be."""
    launcher: psutil.Process

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=120, trust_env=False, **options
        )

    def write_model(self, name: str, **fields: Any) -> None:
        """Put an echo model's YAML into the models directory."""
        lines = [f"name: {name}", "backend: echo"]
        lines += [f"{key}: {value}" for key, value in fields.items()]
        partial = self.models_path / f".{name}.partial"
        partial.write_text("\n".join(lines) + "\n")
        partial.replace(self.models_path / f"{name}.yaml")
        with self.client() as client:
            assert client.post("/models/reload").status_code == 200
            eventually(lambda: name in {m["id"] for m in client.get("/v1/models").json()["data"]})

    def remove_model(self, name: str) -> None:
        (self.models_path / f"{name}.yaml").unlink()
        with self.client() as client:
            client.post("/models/reload")

    def processes(self, title: str) -> list[psutil.Process]:
        """The server's processes whose title holds `title`, such as `ServeReplica:api:Ingress`."""
        found = []
        for process in self.launcher.children(recursive=True):
            try:
                if title in " ".join(process.cmdline()):
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def in_flight(self, model: str) -> int:
        """Slots taken and requests queued in the model's replicas, by their own account."""
        with self.client() as client:
            replicas = client.get("/backend/monitor", params={"model": model}).raise_for_status().json()["replicas"]
        assert replicas, f"no replica of {model} answers"
        return int(sum(replica["stats"]["slots_busy"] + replica["stats"]["queued"] for replica in replicas))

    def replica(self, model: str) -> psutil.Process | None:
        """The process of a loaded model's one replica."""
        from deployments.serve_apps import app_name

        found = self.processes(f"ServeReplica:{app_name(model)}:")
        return found[0] if found else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(directory: Path, **settings: str) -> Iterator[Server]:
    """Start `python -m api`, wait until it is ready, and at the end press Ctrl-C and see that nothing is left."""
    port = free_port()
    models_path, data_path, config_path = directory / "models", directory / "data", directory / "configuration"
    models_path.mkdir(parents=True, exist_ok=True)
    environ = {
        **os.environ,
        "ADDRESS": f"127.0.0.1:{port}",
        "MODELS_PATH": str(models_path),
        "MANTA_DATA_PATH": str(data_path),
        "LOCALAI_CONFIG_DIR": str(config_path),
        **settings,
    }
    with (directory / "launcher.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "api"],
            cwd=PROJECT,
            env=environ,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{port}", models_path, data_path, config_path, psutil.Process(process.pid))
    try:
        wait_until_ready(server, process, directory / "launcher.log")
        yield server
    finally:
        everything = server.launcher.children(recursive=True) if process.poll() is None else []
        process.send_signal(signal.SIGINT)
        try:
            process.wait(90)
        finally:
            _, left = psutil.wait_procs(everything, timeout=1)
            for survivor in left:
                survivor.kill()
    assert not left, f"processes outlived Ctrl-C: {left}"
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0, "the port is still open"


def wait_until_ready(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    def ready() -> bool:
        assert process.poll() is None, f"the launcher ended:\n{log.read_text()}"
        try:
            return httpx.get(f"{server.url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    eventually(ready, 300, 0.25)
