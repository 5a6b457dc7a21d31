"""The servers that benchmarks compare: how each is started, watched and stopped."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

ROOT = Path(__file__).resolve().parents[1]
HOST = "127.0.0.1"
START_LIMIT_S = 300
STOP_LIMIT_S = 60

KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH")
"""What a server gets of the caller's environment. The rest could be settings of the one or the other."""


class ServerFailed(Exception):
    """A server didn't start. The message holds the end of its log."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What every server is given alike."""

    model: Path
    """GGUF file."""
    model_name: str
    """Its id in requests."""
    peers: Path
    """Virtual environment of the other servers."""
    folder: Path
    """For logs and our server's data."""
    threads: int = 1
    slots: int = 32
    context_size: int = 8192
    """Tokens of one request."""
    kv_cells: int = 32768
    """Tokens of all requests together."""
    extra_buffers: bool = True
    """False: llama.cpp must not repack weights here; ours sees that itself."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a server is started on a port."""

    argv: list[str]
    ready_path: str
    """Answers 200 once the server can."""
    environ: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Server:
    """A server that answers."""

    name: str
    url: str
    process: psutil.Process | None = None
    """None: it was running already and isn't ours to watch."""
    log: Path | None = None

    def cpu_seconds(self) -> float | None:
        """CPU time of all its processes so far."""
        if self.process is None:
            return None
        return sum(sum(_cpu_times(process)) for process in [self.process, *self.process.children(recursive=True)])


def manta(setup: Setup, port: int) -> Launch:
    """Our server, with the model installed as a user's gallery would."""
    config = {
        "name": setup.model_name,
        "backend": "llama-cpp",
        "context_size": setup.context_size,
        "kv_cells": setup.kv_cells,
        "parallel": setup.slots,
        "parameters": {"model": setup.model.name},
        "template": {"use_tokenizer_template": True},
    }
    models = setup.folder / "models"
    models.mkdir(exist_ok=True)
    (models / setup.model.name).symlink_to(setup.model.resolve())
    return manta_with(config, models, setup.threads, port)


def manta_with(config: Mapping[str, Any], models: Path, threads: int, port: int) -> Launch:
    """Our server with one model config in the folder `models`."""
    models.mkdir(exist_ok=True)
    (models / f"{config['name']}.yaml").write_text(yaml.safe_dump(dict(config)), encoding="utf-8")
    environ = {
        "ADDRESS": f"{HOST}:{port}",
        "MODELS_PATH": str(models),
        "MANTA_DATA_PATH": str(models.parent / "data"),
        "MANTA_STARTER_MODEL": "",
        "THREADS": str(threads),
    }
    return Launch([sys.executable, "-m", "api"], "/readyz", environ)


def llama_cpp(setup: Setup, port: int) -> Launch:
    """llama.cpp's own C++ server."""
    script = Path(__file__).with_name("llama_cpp_server.py")
    numbers = map(str, (port, setup.threads, setup.slots, setup.kv_cells))
    return Launch([str(setup.peers / "bin/python"), str(script), str(setup.model), HOST, *numbers], "/health", {})


def llama_cpp_python(setup: Setup, port: int) -> Launch:
    """llama-cpp-python's own server. It has one sequence; its defaults that only slow it down are set aside."""
    options = {
        "model": setup.model,
        "host": HOST,
        "port": port,
        "n_ctx": setup.context_size,
        "n_threads": setup.threads,
        "n_threads_batch": setup.threads,
        "flash_attn": True,  # what the others' `auto` comes to on a CPU
        "logits_all": False,  # else it keeps the logits of every prompt token
        "interrupt_requests": False,  # else the next request cuts the running one off
        "verbose": False,
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    script = Path(__file__).with_name("llama_cpp_python_server.py")
    argv = [str(setup.peers / "bin/python"), str(script), str(int(setup.extra_buffers)), *flags]
    return Launch(argv, "/v1/models", {})


LAUNCHES: Mapping[str, Callable[[Setup, int], Launch]] = {
    "manta": manta,
    "llama.cpp": llama_cpp,
    "llama-cpp-python": llama_cpp_python,
}


def describe_peers(environment: Path) -> dict[str, Any]:
    """Versions of the peers' packages, and the instruction sets that each was compiled for."""
    script = """
import importlib.metadata, json, llama_cpp, xllamacpp
print(json.dumps({
    "versions": {name: importlib.metadata.version(name) for name in ("xllamacpp", "llama-cpp-python")},
    "cpu_features": {
        "llama.cpp": xllamacpp.get_system_info(),
        "llama-cpp-python": llama_cpp.llama_print_system_info().decode(),
    },
}))"""
    answer = subprocess.run([environment / "bin/python", "-c", script], capture_output=True, text=True, check=True)
    return dict(json.loads(answer.stdout))


@contextmanager
def running(name: str, launch: Callable[[int], Launch], threads: int, log: Path) -> Iterator[Server]:
    """Start a server on a free port, wait until it is ready, and stop it with all its processes in the end.

    Raises ServerFailed.
    """
    port = _free_port()
    plan = launch(port)
    environ = environment(threads, plan.environ)
    with log.open("wb") as output:
        # A session of its own: Ctrl-C in the terminal is for the benchmark, which then stops the servers in order.
        process = psutil.Popen(
            plan.argv, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        server = Server(name, f"http://{HOST}:{port}", process, log)
        _wait_until_ready(process, server.url + plan.ready_path, log)
        yield server
    finally:
        _stop(process)


def environment(threads: int, added: Mapping[str, str]) -> dict[str, str]:
    """The variables of a process under test."""
    kept = {key: os.environ[key] for key in KEPT_VARIABLES if key in os.environ}
    # Spinning OpenMP threads would slow those that aren't being measured into the picture.
    return {**kept, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", **added}


def _wait_until_ready(process: psutil.Popen, url: str, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(f"{process.args} ended with status {process.returncode}:\n{end_of(log)}")
        if _answers(url):
            return
        time.sleep(0.2)
    raise ServerFailed(f"no answer from {url} within {START_LIMIT_S} s:\n{end_of(log)}")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=10, trust_env=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _stop(process: psutil.Popen) -> None:
    """Ctrl-C, then the end of whatever is left of the process and its descendants."""
    if process.poll() is not None:
        return
    family = [*process.children(recursive=True), process]
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_LIMIT_S)
    except psutil.TimeoutExpired:
        process.kill()
    # A pid that was used again meanwhile isn't the same psutil.Process, and isn't killed.
    _, left = psutil.wait_procs(family, timeout=2)
    for survivor in left:
        survivor.kill()
    psutil.wait_procs(left, timeout=STOP_LIMIT_S)


def _cpu_times(process: psutil.Process) -> tuple[float, float]:
    try:
        times = process.cpu_times()
    except psutil.NoSuchProcess:
        return 0.0, 0.0
    return times.user, times.system


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def end_of(log: Path) -> str:
    """The last lines, for an error message."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:])
