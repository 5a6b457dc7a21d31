"""`serve run` as Ray's manual shows it: without configs/ray.env, and on a Ray node that runs already."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from api import ray_env
from tests.serving import PROJECT, eventually, free_port

SAY = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
SCRIPTS = Path(sys.executable).parent


@contextmanager
def process(command: list[str], environ: Mapping[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("w") as output:
        running = subprocess.Popen(
            command,
            cwd=PROJECT,
            env={**environ},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield running
    finally:
        running.send_signal(signal.SIGINT)
        running.wait(90)


@pytest.fixture
def config(tmp_path: Path) -> Callable[[int], Path]:
    """configs/app.yaml on another port, and one echo model."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "echo.yaml").write_text("name: echo\nbackend: echo\n")

    def on(port: int) -> Path:
        app = yaml.safe_load((PROJECT / "configs" / "app.yaml").read_text())
        app["http_options"]["port"] = port
        path = tmp_path / "app.yaml"
        path.write_text(yaml.safe_dump(app))
        return path

    return on


def environ(tmp_path: Path, *, with_ray_env: bool) -> dict[str, str]:
    ours = ray_env.read()
    bare = {name: value for name, value in os.environ.items() if name not in ours}
    paths = {"MODELS_PATH": str(tmp_path / "models"), "MANTA_DATA_PATH": str(tmp_path / "data")}
    return {**bare, **paths, **(ours if with_ray_env else {})}


def chats(port: int) -> None:
    url = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    eventually(ready, 180, 0.5)
    answer = httpx.post(f"{url}/v1/chat/completions", json=SAY, timeout=60, trust_env=False)
    assert answer.json()["choices"][0]["message"]["content"] == "hello"
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**SAY, "stream": True}, timeout=60) as stream:
        assert list(stream.iter_lines())[-2:] == ["data: [DONE]", ""]


@pytest.mark.timeout(400)
def test_without_ray_env_it_works_and_says_what_is_missing(tmp_path: Path, config: Callable[[int], Path]) -> None:
    port, log = free_port(), tmp_path / "serve.log"
    bare = {**environ(tmp_path, with_ray_env=False), "RAY_ADDRESS": "local"}
    with process([str(SCRIPTS / "serve"), "run", str(config(port))], bare, log):
        chats(port)
        assert "RAY_SERVE_ENABLE_HA_PROXY" in log.read_text()


@pytest.mark.timeout(400)
def test_on_a_ray_node_that_runs(tmp_path: Path, config: Callable[[int], Path]) -> None:
    port, gcs = free_port(), free_port()
    ours = environ(tmp_path, with_ray_env=True)
    head = [str(SCRIPTS / "ray"), "start", "--head", f"--port={gcs}", "--block", "--include-dashboard=false"]
    with process(head, ours, tmp_path / "head.log"):
        eventually(lambda: "Ray runtime started" in (tmp_path / "head.log").read_text(), 120)
        there = {**ours, "RAY_ADDRESS": f"127.0.0.1:{gcs}"}
        with process([str(SCRIPTS / "serve"), "run", str(config(port))], there, tmp_path / "serve.log"):
            chats(port)
