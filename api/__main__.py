"""`python -m api`: the server on this machine, from the first model's download to the last process's end."""

import os
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import yaml
from rich.console import Console

from api import ray_env
from api.interrupts import Interrupts
from api.join_token import require_authentication
from api.serve_process import ServeProcess, serve_run
from api.settings import Settings, load_settings
from deployments.errors import ConfigInvalid, MantaError, NotReady
from gallery.install import install_starter
from gallery.progress import shown

APP_CONFIG = Path(__file__).parent.parent / "configs" / "app.yaml"

_START_LIMIT_S = 300
_STOP_LIMIT_S = 30
_POLL_S = 0.25
_FAILURE_CHECK_S = 2.0

_console = Console(highlight=False, soft_wrap=True)
_errors = Console(stderr=True, highlight=False, soft_wrap=True)


def main() -> int:
    """Run until Ctrl-C. Returns the exit status: 1 when the server could not start or died."""
    try:
        settings = load_settings()
        _require_port(settings)
        # What the user has set wins; without an address Ray would join any cluster it finds on this machine.
        machine = {**ray_env.haproxy(), **ray_env.side_ports()}
        os.environ.update({**ray_env.read(), **machine, "RAY_ADDRESS": "local", **os.environ})
        if settings.allow_join:
            require_authentication()
        _install_starter(settings)
    except MantaError as error:
        _errors.print(error.message, style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        return 1
    return _serve(settings)


def _serve(settings: Settings) -> int:
    interrupts = Interrupts()
    interrupts.catch()
    log = settings.data_path / "logs" / "serve.log"
    _console.print(f"Starting Ray and the server; log: {_short(log)}", markup=False)
    server = ServeProcess(serve_run(app_config(settings)), log, os.environ)
    status = 0
    try:
        _wait_until_ready(server, settings, interrupts.stop)
        if not interrupts.stop.is_set():
            _console.print(banner(settings, _models(settings), log), markup=False)
            _watch(server, interrupts.stop)
    except NotReady as error:
        _errors.print(error.message, style="red", markup=False)
        status = 1
    finally:
        _console.print("Stopping; Ctrl-C again to hurry.")
        server.stop(_STOP_LIMIT_S, interrupts.hurry)
        _console.print("Stopped.")
    return status


def _require_port(settings: Settings) -> None:
    """Raise ConfigInvalid if the server could not listen."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            raise ConfigInvalid(
                f"can't listen on {settings.address}: {error.strerror}. "
                "Choose another with ADDRESS, for example: ADDRESS=127.0.0.1:8081 make run"
            ) from error


def _install_starter(settings: Settings) -> None:
    """Install the starter model on a first start. The server would do it too, but nobody would see it."""
    try:
        with shown(_console) as progress:
            install_starter(settings.models_path, settings.starter_model, progress, settings.gallery.downloads())
    except MantaError as error:
        raise type(error)(f"{error.message}\nTo start without a model: MANTA_STARTER_MODEL= make run") from error


def app_config(settings: Settings) -> Path:
    """The config file for `serve run`: ours, or a copy with the settings in it where they differ."""
    config: dict[str, Any] = yaml.safe_load(APP_CONFIG.read_text(encoding="utf-8"))
    http_options = {**config["http_options"], "host": settings.host, "port": settings.port}
    deployments = [
        {**deployment, "num_replicas": settings.ingress_replicas} if deployment["name"] == "Ingress" else deployment
        for deployment in config["applications"][0]["deployments"]
    ]
    application = {**config["applications"][0], "deployments": deployments}
    rendered = {**config, "http_options": http_options, "applications": [application]}
    if rendered == config:
        return APP_CONFIG
    path = settings.data_path / "app.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(rendered, sort_keys=False), encoding="utf-8")
    return path


def _wait_until_ready(server: ServeProcess, settings: Settings, stop: threading.Event) -> None:
    """Return when the server answers, or `stop` is set. Raises NotReady with the reason when it won't."""
    deadline = time.monotonic() + _START_LIMIT_S
    next_check = time.monotonic() + _FAILURE_CHECK_S
    while not stop.wait(_POLL_S):
        if _is_ready(settings):
            return
        if time.monotonic() >= next_check:
            if failure := server.failure():
                raise NotReady(f"{failure}\n\nThe whole log: {_short(server.log)}")
            next_check = time.monotonic() + _FAILURE_CHECK_S
        if time.monotonic() > deadline:
            raise NotReady(f"no answer at {settings.local_url} after {_START_LIMIT_S} s; see {_short(server.log)}")


def _watch(server: ServeProcess, stop: threading.Event) -> None:
    """Show the log's errors until `stop` is set. Raises NotReady when the server ends by itself."""
    while not stop.wait(_FAILURE_CHECK_S):
        for problem in server.problems():
            _errors.print(problem, style="yellow", markup=False)
        if (status := server.exit_status()) is not None:
            raise NotReady(f"serve run ended with status {status}; see {_short(server.log)}")


def _is_ready(settings: Settings) -> bool:
    try:
        return _get(settings, "/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _models(settings: Settings) -> list[str] | None:
    """Names of the installed models, the starter model first. None: no key that the server takes is in the settings."""
    response = _get(settings, "/v1/models")
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return None
    names = [str(model["id"]) for model in response.raise_for_status().json()["data"]]
    return sorted(names, key=lambda name: (name != settings.starter_model, name))


def _get(settings: Settings, path: str) -> httpx.Response:
    key = settings.own_key()
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.get(settings.local_url + path, headers=headers, timeout=10, trust_env=False)


def banner(settings: Settings, models: list[str] | None, log: Path) -> str:
    """What a user wants to know once the server is up."""
    lines = [
        "",
        f"Manta is up:  {settings.local_url}",
        f"API:          {settings.local_url}/swagger/",
        f"Log:          {_short(log)}",
        "Stop:         Ctrl-C",
        "",
    ]
    if models is None:
        return "\n".join(lines)
    if not models:
        return "\n".join([*lines, "No model is installed. To see what there is: .venv/bin/python -m gallery list", ""])
    key = ' \\\n    -H "Authorization: Bearer $API_KEY"' if settings.key_rows() else ""
    body = f'{{"model": "{models[0]}", "messages": [{{"role": "user", "content": "Hello!"}}]}}'
    curl = f"curl {settings.local_url}/v1/chat/completions{key} \\\n    -H 'Content-Type: application/json' -d '{body}'"
    return "\n".join([*lines, curl, ""])


def _short(path: Path) -> str:
    """The path as one would type it here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    sys.exit(main())
