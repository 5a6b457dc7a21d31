"""YAML files of the models directory, parsed once for each change: hundreds of them are looked through at a time."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from deployments.config_file import load_yaml


def load_file(path: Path) -> Any:
    """The document, which must not be changed. Raises OSError, UnicodeDecodeError and ConfigInvalid. Blocks."""
    stat = path.stat()
    return _loaded(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=4096)
def _loaded(path: Path, *version: int) -> Any:
    return load_yaml(path.read_text("utf-8-sig"))
