"""Join tokens, and `python -m api.join` up to the point where processes start."""

import base64
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from api import join
from api.join_token import JoinToken, ray_token, require_authentication, require_reachable
from deployments.errors import ConfigInvalid

TOKEN = JoinToken.of("10.0.0.1:6379", "ray-secret")


def test_a_token_survives_the_way() -> None:
    text = TOKEN.encoded()
    assert JoinToken.decoded(f" {text}\n") == TOKEN
    assert "ray-secret" not in text
    assert json.loads(base64.urlsafe_b64decode(text))["address"] == "10.0.0.1:6379"


@pytest.mark.parametrize(
    "text",
    ["", "sk-key", "not base64!", "é", *(base64.urlsafe_b64encode(body).decode() for body in (b"[1]", b"{}", b"\xff"))],
)
def test_what_is_no_token_is_said_with_the_way_to_get_one(text: str) -> None:
    with pytest.raises(ConfigInvalid, match="/api/p2p/token"):
        JoinToken.decoded(text)


@pytest.mark.parametrize("field", ["ray", "python", "manta"])
def test_other_versions_are_refused_by_name(field: str) -> None:
    TOKEN.require_same_versions()
    versions = {name: getattr(TOKEN, name) for name in ("ray", "python", "manta")} | {field: "0.0"}
    with pytest.raises(ConfigInvalid, match=f"{field} 0.0"):
        JoinToken(TOKEN.address, TOKEN.token, **versions).require_same_versions()


def test_the_secret_is_where_ray_looks_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert ray_token({}) == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("of the home\n")
    assert ray_token({}) == "of the home"
    (tmp_path / "file").write_text("of a file")
    named = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}
    assert ray_token(named) == "of a file"
    assert ray_token({**named, "RAY_AUTH_TOKEN": "of the environment"}) == "of the environment"


@pytest.mark.parametrize("environ", [{}, {"RAY_AUTH_MODE": "disabled"}])
def test_nobody_may_join_a_cluster_that_is_open_to_all(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigInvalid, match="RAY_AUTH_MODE=token"):
        require_authentication(environ)


def test_a_cluster_with_authentication_may_be_joined() -> None:
    require_authentication({"RAY_AUTH_MODE": "token"})


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "[::1]:6379"])
def test_nobody_can_join_on_loopback(address: str) -> None:
    with pytest.raises(ConfigInvalid, match="--node-ip-address"):
        require_reachable(address)


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "[fd00::2]:6379"])
def test_others_can_be_joined(address: str) -> None:
    require_reachable(address)


def test_secrets_are_in_the_environment_and_not_on_the_command_line() -> None:
    environ = join.environment(TOKEN, {"TOKEN": TOKEN.encoded(), "RAY_ADDRESS": "auto", "OMP_WAIT_POLICY": "active"})
    assert (environ["RAY_AUTH_MODE"], environ["RAY_AUTH_TOKEN"]) == ("token", "ray-secret")
    assert environ["OMP_WAIT_POLICY"] == "active", "what the user has set wins"
    assert environ["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert not {"TOKEN", "RAY_ADDRESS"} & environ.keys()
    command = join.ray_start(TOKEN.address)
    assert "--address=10.0.0.1:6379" in command
    assert "ray-secret" not in " ".join(command)


def run(folder: Path, token: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "api.join"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(join.__file__).parents[1]), "TOKEN": token},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_wrong_token_is_said_without_a_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, "nonsense")
    assert done.returncode == 1
    assert "make join TOKEN=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_cluster_that_does_not_answer_is_said_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
        join.require_answer(address)
    done = run(tmp_path, JoinToken.of(address, "secret").encoded())
    assert done.returncode == 1
    assert f"does not answer at {address}" in done.stderr
    assert "secret" not in done.stderr
