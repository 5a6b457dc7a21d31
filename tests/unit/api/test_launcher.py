"""`python -m api`, up to the point where processes start."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from api import __main__ as launcher
from api.interrupts import Interrupts
from api.settings import Settings, load_settings

PROJECT = Path(__file__).resolve().parents[3]


def settings(folder: Path, **env: str) -> Settings:
    return load_settings(env={"MANTA_STARTER_MODEL": "", **env}, directory=folder)


def run(folder: Path, **env: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "api"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(PROJECT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_our_own_config_is_used_where_the_settings_agree(tmp_path: Path) -> None:
    assert launcher.app_config(settings(tmp_path)) == launcher.APP_CONFIG


def test_address_and_replicas_go_into_a_copy(tmp_path: Path) -> None:
    path = launcher.app_config(settings(tmp_path, ADDRESS=":9000", MANTA_INGRESS_REPLICAS="3"))
    ours, copy = yaml.safe_load(launcher.APP_CONFIG.read_text()), yaml.safe_load(path.read_text())
    assert path == tmp_path / "data/app.yaml"
    assert copy["http_options"] == {"host": "0.0.0.0", "port": 9000}
    ours["http_options"] = copy["http_options"]
    ours["applications"][0]["deployments"][0]["num_replicas"] = 3
    assert copy == ours


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        (":8081", "http://127.0.0.1:8081"),
        ("[::]:8082", "http://[::1]:8082"),
        ("box.example:80", "http://box.example:80"),
    ],
)
def test_url_is_one_that_a_client_here_can_use(tmp_path: Path, address: str, url: str) -> None:
    assert settings(tmp_path, ADDRESS=address).local_url == url


def test_banner_has_a_curl_line_that_a_shell_can_run(tmp_path: Path) -> None:
    text = launcher.banner(settings(tmp_path), ["tiny", "other"], tmp_path / "serve.log")
    command = text.partition("curl ")[2].partition("\n\n")[0]
    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True, check=True)
    assert words.stdout.splitlines() == [
        "http://127.0.0.1:8080/v1/chat/completions",
        "-H",
        "Content-Type: application/json",
        "-d",
        '{"model": "tiny", "messages": [{"role": "user", "content": "Hello!"}]}',
    ]


def test_banner_asks_for_the_key_and_never_shows_it(tmp_path: Path) -> None:
    text = launcher.banner(settings(tmp_path, API_KEY="sk-secret"), ["tiny"], tmp_path / "serve.log")
    assert '"Authorization: Bearer $API_KEY"' in text
    assert "sk-secret" not in text


def test_banner_without_a_key_to_ask_with_names_no_model(tmp_path: Path) -> None:
    text = launcher.banner(settings(tmp_path), None, tmp_path / "serve.log")
    assert "http://" in text
    assert "model" not in text


def test_banner_without_models_says_where_they_are(tmp_path: Path) -> None:
    text = launcher.banner(settings(tmp_path), [], tmp_path / "serve.log")
    assert "python -m gallery list" in text
    assert "curl" not in text


def test_a_port_in_use_is_said_with_the_setting_that_changes_it(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, ADDRESS=f"127.0.0.1:{port}")
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in done.stderr
    assert "ADDRESS=" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_setting_is_said_without_a_traceback(tmp_path: Path) -> None:
    done = run(tmp_path, ADDRESS="nonsense")
    assert done.returncode == 1
    assert "ADDRESS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_starter_model_that_does_not_exist_is_said_with_the_way_out(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = run(tmp_path, ADDRESS=f"127.0.0.1:{port}", MANTA_STARTER_MODEL="no-such-model")
    assert done.returncode == 1
    assert "'no-such-model'" in done.stderr
    assert "MANTA_STARTER_MODEL= make run" in done.stderr


def test_the_second_signal_hurries() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    interrupts = Interrupts()
    interrupts.catch()
    try:
        signal.raise_signal(signal.SIGTERM)
        assert interrupts.stop.is_set()
        assert not interrupts.hurry.is_set()
        signal.raise_signal(signal.SIGINT)
        assert interrupts.hurry.is_set()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
