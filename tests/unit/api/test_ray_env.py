"""The environment of Ray's processes."""

import socket
import subprocess

from api import ray_env


def test_ray_env_reads_the_same_here_and_in_a_shell() -> None:
    script = f"set -a; . {ray_env.RAY_ENV}; env"
    shell = subprocess.run(["env", "-i", "sh", "-c", script], capture_output=True, text=True, check=True)
    exported = dict(line.split("=", 1) for line in shell.stdout.splitlines())
    assert ray_env.read().items() <= exported.items()
    assert ray_env.read()["RAY_SERVE_ENABLE_HA_PROXY"] == "1"


def test_missing_names_what_is_not_set() -> None:
    assert ray_env.missing(ray_env.read()) == []
    assert ray_env.missing({}) == list(ray_env.read())
    assert ray_env.missing({**ray_env.read(), "RAY_AUTH_MODE": "disabled"}) == [], "another value is a choice"


def test_a_side_port_moves_only_if_it_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as other:
        free = other.getsockname()[1]
        other.close()
        moved = ray_env.side_ports({"TAKEN": taken.getsockname()[1], "FREE": free})
        assert moved.keys() == {"TAKEN"}
        assert int(moved["TAKEN"]) != taken.getsockname()[1]
