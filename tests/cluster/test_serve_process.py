"""The process tree behind the launcher. Each case runs in a process of its own, since orphans will fall to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

CHILD = """
import json, os, signal, subprocess, sys, time
# A grandchild in a session of its own, whose parent ends: what Ray's daemons do.
orphan = "import os, time; os.setsid(); open({0!r}, 'w').write(str(os.getpid())); time.sleep(600)"
launch = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', {1!r}])"
path = sys.argv[1] + "/orphan.pid"
subprocess.run([sys.executable, "-c", launch.format(path, orphan.format(path))], check=True)
if sys.argv[2] == "deaf":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
open(sys.argv[1] + "/child.pid", "w").write(str(os.getpid()))
print("up", flush=True)
print('(Replica pid=7) ' + json.dumps({"levelname": "ERROR", "message": "no room"}), flush=True)
print("plain ERROR line", flush=True)
print("INFO all is well", flush=True)
if sys.argv[2] == "dies":
    sys.exit(3)
time.sleep(600)
"""

DRIVER = """
import json, os, sys, threading, time
from pathlib import Path
from api.serve_process import ServeProcess
folder, kind, hurry = Path(sys.argv[1]), sys.argv[2], threading.Event()
command = [sys.executable, str(folder / "child.py"), str(folder), kind]
server = ServeProcess(command, folder / "logs/serve.log", os.environ)
pids = [folder / "child.pid", folder / "orphan.pid"]
if sys.argv[3] == "hurry":
    hurry.set()
print("started", flush=True)
while not all(path.exists() for path in pids) or "INFO" not in server.log.read_text():
    time.sleep(0.01)
while kind == "dies" and server.exit_status() is None:
    time.sleep(0.01)
said, failure = list(server.problems()), server.failure()
if sys.argv[3] == "stay":
    time.sleep(600)
began = time.monotonic()
server.stop(30 if kind != "deaf" or hurry.is_set() else 0.5, hurry)
print(json.dumps({"said": said, "failure": failure, "seconds": time.monotonic() - began}))
"""


@pytest.fixture
def drive(tmp_path: Path) -> Callable[..., dict]:
    """Run the driver to its end and return what it saw."""

    def run(kind: str, how: str = "") -> dict:
        driver = _start(tmp_path, kind, how)
        output, _ = driver.communicate(timeout=60)
        assert driver.returncode == 0
        return json.loads(output.splitlines()[-1])

    return run


def _start(folder: Path, kind: str, how: str) -> "subprocess.Popen[str]":
    project = Path(__file__).resolve().parents[3]
    (folder / "child.py").write_text(CHILD)
    command = [sys.executable, "-c", DRIVER, str(folder), kind, how]
    return subprocess.Popen(
        command, cwd=project, env={**os.environ, "PYTHONPATH": "."}, stdout=subprocess.PIPE, text=True
    )


def _alive(folder: Path) -> set[str]:
    """Which of the started processes still run."""
    pids = {name: int((folder / f"{name}.pid").read_text()) for name in ("child", "orphan")}
    return {name for name, pid in pids.items() if psutil.pid_exists(pid) and _runs(pid)}


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stop_ends_orphans_in_sessions_of_their_own(drive, tmp_path: Path) -> None:
    drive("gentle", "hurry")
    assert _alive(tmp_path) == set()


def test_a_child_that_ignores_ctrl_c_is_ended_when_patience_is(drive, tmp_path: Path) -> None:
    assert 0.4 < drive("deaf")["seconds"] < 20
    assert _alive(tmp_path) == set()


def test_hurry_does_not_wait(drive, tmp_path: Path) -> None:
    assert drive("deaf", "hurry")["seconds"] < 20
    assert _alive(tmp_path) == set()


def test_errors_of_the_log_are_shown_and_nothing_else(drive) -> None:
    assert drive("gentle", "hurry")["said"] == ["no room", "plain ERROR line"]


def test_a_child_that_died_is_a_failure_with_its_last_words(drive) -> None:
    failure = drive("dies", "hurry")["failure"]
    assert "status 3" in failure
    assert failure.endswith("INFO all is well")


def test_a_child_that_runs_is_no_failure(drive) -> None:
    assert drive("gentle", "hurry")["failure"] is None


def test_the_log_of_the_last_run_is_kept(drive, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/serve.log").write_text("last time")
    drive("gentle", "hurry")
    assert (tmp_path / "logs/serve.log.1").read_text() == "last time"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl")
def test_the_child_hears_of_the_launchers_death(tmp_path: Path) -> None:
    driver = _start(tmp_path, "gentle", "stay")
    deadline = time.monotonic() + 30
    while not all((tmp_path / f"{name}.pid").exists() for name in ("child", "orphan")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=30)
    while "child" in _alive(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(int((tmp_path / "orphan.pid").read_text()), signal.SIGKILL)
