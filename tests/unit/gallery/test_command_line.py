"""`python -m gallery`."""

import io
import os
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from gallery.__main__ import app
from gallery.progress import shown

WEIGHTS = os.urandom(1_000_000)
"""pip reports progress for large files alone."""

INDEX = """
- name: tiny
  description: a tiny model
  config_file: {backend: echo}
  files: [{filename: tiny.gguf, uri: "pypi://tiny-model==1.2/tiny.gguf"}]
"""


@pytest.fixture
def index(tmp_path: Path) -> Path:
    path = tmp_path / "index.yaml"
    path.write_text(INDEX)
    return path


def test_install_then_list(package_index, index: Path, tmp_path: Path) -> None:
    package_index.add("tiny-model", "1.2", {"tiny.gguf": WEIGHTS})
    options = ["--models-path", str(tmp_path / "models"), "--index", str(index)]
    assert CliRunner().invoke(app, ["list", *options]).output == "  tiny  a tiny model\n"
    installed = CliRunner().invoke(app, ["install", "TINY", *options])
    assert installed.exit_code == 0, installed.output
    assert "tiny.gguf: 100%" in installed.output
    assert (tmp_path / "models/tiny.gguf").read_bytes() == WEIGHTS
    assert CliRunner().invoke(app, ["list", *options]).output == "* tiny  a tiny model\n"


def test_a_log_gets_a_line_for_each_quarter() -> None:
    out = io.StringIO()
    with shown(Console(file=out)) as progress:
        for done in range(0, 101_000_000, 1_000_000):
            progress("w.gguf", done, 100_000_000)
    assert [line.split(": ")[1] for line in out.getvalue().splitlines()] == [
        f"{percent}% of 100 MB" for percent in (0, 25, 50, 75, 100)
    ]
