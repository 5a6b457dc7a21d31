"""Servers under test are started with what they are given alone, and leave nothing behind."""

import json
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from benchmarks.servers import LAUNCHES, Launch, ServerFailed, Setup, manta, running
from deployments.config_file import load_yaml, parse

FAKE = """
import json, os, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"child": child.pid, "environ": dict(os.environ)}).encode())
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    model = tmp_path / "m.gguf"
    model.touch()
    folder = tmp_path / "run"
    folder.mkdir()
    return Setup(model, "tiny", peers=tmp_path / "peers", folder=folder)


def test_a_server_runs_and_is_gone_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "sk-mine")
    launch = Launch([sys.executable, "-c", FAKE], "/ready", {"ADDRESS": "here"})
    with running(
        "fake", lambda port: Launch([*launch.argv, str(port)], "/ready", launch.environ), 3, tmp_path / "log"
    ) as server:
        with urllib.request.urlopen(server.url) as answer:
            seen = json.load(answer)
        child = psutil.Process(seen["child"])
        assert (server.cpu_seconds() or 0) > 0
    assert seen["environ"]["ADDRESS"] == "here"
    assert (seen["environ"]["OMP_NUM_THREADS"], seen["environ"]["OMP_WAIT_POLICY"]) == ("3", "passive")
    assert "API_KEY" not in seen["environ"]
    assert not child.is_running()
    assert server.process is not None
    assert not server.process.is_running()


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    launch = Launch([sys.executable, "-c", "import sys; sys.exit('no such model')"], "/", {})
    with pytest.raises(ServerFailed, match="no such model"), running("fake", lambda port: launch, 1, tmp_path / "log"):
        pass


def test_ours_gets_a_config_that_is_valid(setup: Setup) -> None:
    launch = manta(setup, 8080)
    models = Path(launch.environ["MODELS_PATH"])
    (config,) = models.glob("*.yaml")
    assert parse(load_yaml(config.read_text())).kv_cells == setup.kv_cells
    assert (models / "m.gguf").exists()


@pytest.mark.parametrize("name", [name for name in LAUNCHES if name != "manta"])
def test_peers_run_a_script_that_exists(name: str, setup: Setup) -> None:
    python, script, *arguments = LAUNCHES[name](setup, 8080).argv
    assert Path(python) == setup.peers / "bin/python"
    assert Path(script).is_file()
    assert str(setup.model) in arguments
