"""`python -m api.join`: make this machine a worker of the cluster whose join token is in TOKEN, until Ctrl-C."""

import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from api import ray_env
from api.interrupts import Interrupts
from api.join_token import AUTH_MODE, AUTH_TOKEN, JoinToken
from api.serve_process import ServeProcess
from api.settings import load_settings
from deployments.errors import MantaError, NotReady

STARTED = "Ray runtime started"
"""In the output of `ray start` once the node has registered."""

_START_LIMIT_S = 120
_STOP_LIMIT_S = 30
_POLL_S = 0.25

_JOINED = """Joined: the cluster places models here by the CPUs and GPUs that they ask for.
Their backends must be installed here, and their files lie at the same paths as on the head. Ctrl-C leaves."""

_console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> int:
    """Returns the exit status: 1 when this machine could not join, or the cluster went."""
    try:
        token = JoinToken.decoded(os.environ.get("TOKEN", ""))
        token.require_same_versions()
        require_answer(token.address)
        log = load_settings().data_path / "logs" / "join.log"
    except MantaError as error:
        _errors.print(error.message, style="red", markup=False)
        return 1
    return join(token, log)


def join(token: JoinToken, log: Path) -> int:
    """Run a Ray node of the cluster until Ctrl-C. All that it starts ends with it."""
    interrupts = Interrupts()
    interrupts.catch()
    _console.print(f"Joining the cluster at {token.address}; log: {log}", markup=False)
    node = ServeProcess(ray_start(token.address), log, environment(token, os.environ))
    status = 0
    try:
        _wait_until_joined(node, token.address, interrupts)
        if not interrupts.stop.is_set():
            _console.print(_JOINED)
            _watch(node, token.address, interrupts)
    except NotReady as error:
        _errors.print(error.message, style="red", markup=False)
        status = 1
    finally:
        _console.print("Leaving; Ctrl-C again to hurry.")
        node.stop(_STOP_LIMIT_S, interrupts.hurry)
        _console.print("Left.")
    return status


def require_answer(address: str, timeout: float = 5.0) -> None:
    """Raise NotReady where nobody answers at the address: Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout).close()
    except OSError as error:
        raise NotReady(
            f"the cluster does not answer at {address} ({error}). Does it run? A token is good for one run of the "
            "server. Do firewalls let this machine through, to all ports of the head, and the head to this one?"
        ) from error


def ray_start(address: str) -> list[str]:
    """The command that runs a worker node and stays until its Ctrl-C."""
    options = [f"--address={address}", "--block", "--log-color=false"]
    return [sys.executable, "-m", "ray.scripts.scripts", "start", *options]


def environment(token: JoinToken, environ: Mapping[str, str]) -> dict[str, str]:
    """Of Ray's processes. It holds the secret, for the command line is there for every user of the machine to read."""
    mine = {name: value for name, value in environ.items() if name not in ("TOKEN", "RAY_ADDRESS")}
    return {**ray_env.read(), **ray_env.haproxy(), **mine, AUTH_MODE: "token", AUTH_TOKEN: token.token}


def _wait_until_joined(node: ServeProcess, address: str, interrupts: Interrupts) -> None:
    """Return when the node has registered, or a Ctrl-C came. Raises NotReady when it could not."""
    deadline = time.monotonic() + _START_LIMIT_S
    while STARTED not in node.output() and not interrupts.stop.wait(_POLL_S):
        if node.exit_status() is not None or time.monotonic() > deadline:
            raise NotReady(f"could not join the cluster at {address}; {node.log} ends:\n{node.last_lines(2)}")


def _watch(node: ServeProcess, address: str, interrupts: Interrupts) -> None:
    """Return at a Ctrl-C. Raises NotReady when the node ends by itself, as it does when the head is gone."""
    while not interrupts.stop.wait(_POLL_S):
        if node.exit_status() is not None:
            raise NotReady(f"the cluster at {address} is gone, or has dropped this machine; see {node.log}")


if __name__ == "__main__":
    sys.exit(main())
