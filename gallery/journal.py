"""What an unfinished installation has changed in the models directory, on disk, so that it can be taken back."""

import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from gallery.paths import hidden, inside, write_text
from gallery.usage import Usage


class Journal:
    """Of one model's installation. Methods block. Every change is written down before it is made.

    A file that is replaced stays as a hidden one until the end. The file names in `claims` are the model's from the
    start: no deletion takes them away.
    """

    def __init__(self, models_path: Path, name: str, values: dict[str, Any]) -> None:
        self._models_path = models_path
        self._name = name
        self._path = _path(models_path, name)
        self._claims: list[str] = values.get("claims", [])
        self._placed: dict[str, bool] = values.get("placed", {})
        """File name → whether it took another's place."""
        self._lock = threading.Lock()  # files of one installation come in side by side

    @classmethod
    def begin(cls, models_path: Path, name: str, claims: Iterable[str]) -> Self:
        """That of an interrupted installation, which goes on, or a new one."""
        journal = cls.find(models_path, name) or cls(models_path, name, {})
        journal.claim(claims)
        return journal

    @classmethod
    def find(cls, models_path: Path, name: str) -> Self | None:
        """That of an interrupted installation."""
        path = _path(models_path, name)
        if not path.exists():
            return None
        return cls(models_path, name, json.loads(path.read_text(encoding="utf-8")))

    def claim(self, filenames: Iterable[str]) -> None:
        """These files are the model's."""
        with self._lock:
            self._claims = sorted({*self._claims, *filenames})
            self._write()

    def place(self, fetched: Path, filename: str) -> None:
        """Give the fetched file its name. Raises ConfigInvalid when that has come to lead out of the directory."""
        path = inside(self._models_path, filename)
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if filename not in self._placed:
                self._placed[filename] = path.exists()
                self._write()
        aside = hidden(path, ".replaced")
        if self._placed[filename] and path.exists() and not aside.exists():
            path.replace(aside)
        fetched.replace(inside(self._models_path, filename))

    def finish(self) -> None:
        """The installation is complete: what was replaced goes."""
        for filename in self._placed:
            if aside := self._aside(filename):
                aside.unlink()
        self._path.unlink(missing_ok=True)

    def placed(self) -> list[str]:
        """Files that have got their names."""
        return list(self._placed)

    def take_back(self, filename: str) -> None:
        """Remove a placed file, unless another model has come to use it; what it replaced is there again."""
        path, aside = self._models_path / filename, self._aside(filename)
        if Usage(self._models_path, but=self._name).user_of(filename):
            if aside:
                aside.unlink()
        elif aside:
            aside.replace(path)
        elif not self._placed[filename]:
            path.unlink(missing_ok=True)

    def end(self) -> None:
        """Everything has been taken back."""
        usage = Usage(self._models_path, but=self._name)
        for filename in self._claims:
            usage.remove_empty_folders(filename)
        self._path.unlink(missing_ok=True)

    def _aside(self, filename: str) -> Path | None:
        """What was replaced by that file."""
        aside = hidden(self._models_path / filename, ".replaced")
        return aside if self._placed[filename] and aside.exists() else None

    def _write(self) -> None:
        values = {"name": self._name, "claims": self._claims, "placed": self._placed}
        write_text(self._path, json.dumps(values))


def _path(models_path: Path, name: str) -> Path:
    return models_path / f"._install_{name}.json"
