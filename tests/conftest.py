"""Layers by directory: what lies under tests/<layer>/ has that marker."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from api import ray_env
from gallery.index import STARTER
from tests.serving import KEY, Server, serving

os.environ.update({**ray_env.read(), **os.environ})  # for every process that a test starts

LAYERS = ("unit", "cluster", "models", "verify")
TESTS = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests and order them by layer: the quick ones fail first."""
    for item in items:
        item.add_marker(_layer(item))
    items.sort(key=lambda item: LAYERS.index(_layer(item)))


def _layer(item: pytest.Item) -> str:
    return item.path.relative_to(TESTS).parts[0]


ECHOES = {
    "echo": {},
    "echo-slow": {"options": '["delay:0.005"]'},
    "echo-endless": {"options": '["delay:0.001", "repeat:2000"]'},
    "echo-fails": {"options": '["fail_after:3"]'},
    "echo-tiny": {"context_size": 64},
}
"""Echo models of the one server that all cluster and model tests share."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server as `make run` starts it. Its end is a test too: Ctrl-C must leave no process and no port."""
    directory = tmp_path_factory.mktemp("server")
    (directory / "models").mkdir()
    for name, fields in ECHOES.items():
        lines = [f"{key}: {value}" for key, value in fields.items()]
        (directory / "models" / f"{name}.yaml").write_text("\n".join([f"name: {name}", "backend: echo", *lines]))
    starter = [{"name": "manta", "url": STARTER.as_uri()}]
    settings = {
        "API_KEY": KEY,
        "MANTA_KEEPALIVE": "1",
        "MANTA_TRUSTED_PROXIES": "127.0.0.1",
        "MANTA_LOAD_FAILURE_COOLDOWN": "2",
        "MANTA_ALLOW_JOIN": "true",
        "GALLERIES": json.dumps(starter),  # nothing here reaches the other ones
        "MANTA_DOWNLOAD_ALLOW": "127.0.0.1",
        "MANTA_DOWNLOAD_STALL_TIMEOUT": "2",
        "MANTA_DOWNLOAD_RETRIES": "1",
    }
    with serving(directory, **settings) as running:
        yield running
