"""The environment that Ray's processes need: `configs/ray.env`, read."""

import os
from collections.abc import Mapping
from pathlib import Path

RAY_ENV = Path(__file__).parent.parent / "configs" / "ray.env"


def read(path: Path = RAY_ENV) -> dict[str, str]:
    """The variables of a file of KEY=VALUE lines; empty lines and lines that start with `#` are comments."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name.strip(): value.strip() for name, _, value in pairs}


def missing(environ: Mapping[str, str] = os.environ) -> list[str]:
    """Names that `environ` doesn't have. What it sets to another value is the operator's choice."""
    return [name for name in read() if name not in environ]
