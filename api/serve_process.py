"""`serve run`, or `ray start`, as a child, with all that it starts: Ray's daemons, HAProxy, replicas, engines."""

import ctypes
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil
from requests import RequestException

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2)."""

_QUIET_LOG = {"RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
"""The child's output is a file of whole JSON lines, not a terminal."""

_GRACE_S = 5.0
"""What Ray's daemons get to follow the child that started them."""

_DASHBOARD = re.compile(r"View the dashboard at \S*?(https?://[\w.:\[\]-]+)")
_PROBLEM = re.compile(r"\b(?:ERROR|CRITICAL)\b")


def serve_run(config: Path) -> list[str]:
    """The command that brings the config file's applications up and stays until its Ctrl-C."""
    return [sys.executable, "-m", "ray.serve.scripts", "run", str(config)]


class ServeProcess:
    """Starts `command`; its output goes to `log`, whose last content moves to `<log>.1`.

    This process becomes the one that orphans fall to, so whatever Ray puts into groups and sessions of its own
    remains a descendant and is found when all must end. Should this process die, the child gets its Ctrl-C.
    """

    def __init__(self, command: Sequence[str], log: Path, environ: Mapping[str, str]) -> None:
        if log.exists():
            log.replace(log.with_name(log.name + ".1"))
        log.parent.mkdir(parents=True, exist_ok=True)
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        self.log = log
        self._output = log.open("w+", encoding="utf-8", errors="replace")
        self._child = subprocess.Popen(
            command,
            env={**environ, **_QUIET_LOG},
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: _prctl(_PR_SET_PDEATHSIG, signal.SIGINT),  # noqa: PLW1509 – no thread runs yet
        )
        self._read = log.open(encoding="utf-8", errors="replace")

    def exit_status(self) -> int | None:
        """None while the child runs."""
        return self._child.poll()

    def failure(self) -> str | None:
        """Why there will be no server: the child ended, or Serve gave the application up."""
        if self.exit_status() is not None:
            return f"serve run ended with status {self.exit_status()}:\n{self.last_lines(15)}"
        return self._application_failure()

    def problems(self) -> Iterator[str]:
        """What the log says of errors since the last call."""
        for line in self._read:
            if _PROBLEM.search(line):
                yield _message(line.strip())

    def output(self) -> str:
        """All that it has written."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def last_lines(self, count: int) -> str:
        return "\n".join(self.output().splitlines()[-count:])

    def stop(self, patience_s: float, hurry: threading.Event) -> None:
        """Ctrl-C for the child, `patience_s` for it to end, a little for the rest; what is left then is killed.

        `hurry`, set at any time, cuts the waiting short.
        """
        if self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
        _wait(lambda: self._child.poll() is None, patience_s, hurry)
        _wait(_children, _GRACE_S, hurry)
        while descendants := psutil.Process().children(recursive=True):
            for process in descendants:
                _kill(process)
            psutil.wait_procs(_children(), timeout=1)
        self._output.close()
        self._read.close()

    def _application_failure(self) -> str | None:
        # The log names the dashboard, whose port is the next free one from 8265.
        found = _DASHBOARD.search(self.output())
        if found is None:
            return None
        from ray.dashboard.modules.serve.sdk import ServeSubmissionClient  # takes a second: Ray starts meanwhile

        try:
            applications = ServeSubmissionClient(found[1]).get_serve_details()["applications"]
        except (ConnectionError, RequestException, RuntimeError):
            return None  # the dashboard isn't up yet
        for name, application in applications.items():
            if application["status"] == "DEPLOY_FAILED":
                parts = [application, *application["deployments"].values()]
                causes = [_cause(part["message"]) for part in parts if part["status"] == "DEPLOY_FAILED"]
                return "\n".join([f"the application {name!r} failed to deploy:", *causes])
        return None


def _cause(message: str) -> str:
    """The last traceback of a message: Ray nests one for each process that passed the error on."""
    return message.rpartition("Traceback (most recent call last):\n")[2].rstrip()


def _message(line: str) -> str:
    """The message of a JSON log line; another line as it is."""
    _, brace, rest = line.partition("{")
    try:
        record = json.loads(brace + rest)
    except ValueError:
        return line
    return str(record.get("message", line)) if isinstance(record, dict) else line


def _wait(busy: Callable[[], object], limit_s: float, hurry: threading.Event) -> None:
    """Wait until `busy` is false, reaping orphans, so that none stays a zombie."""
    deadline = time.monotonic() + limit_s
    while busy() and time.monotonic() < deadline and not hurry.is_set():
        psutil.wait_procs(_children(), timeout=0.1)


def _children() -> list[psutil.Process]:
    children: list[psutil.Process] = psutil.Process().children()
    return children


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
