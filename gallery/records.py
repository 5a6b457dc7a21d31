"""What was installed by the gallery: one hidden file a model, LocalAI's `._gallery_<name>.yaml` with keys of ours."""

import hashlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from deployments.errors import ConfigInvalid
from gallery.names import model_name
from gallery.paths import write_text
from gallery.plan import Plan
from gallery.request import File
from gallery.yaml_files import load_file

log = logging.getLogger("manta.gallery")

_PREFIX, _SUFFIX = "._gallery_", ".yaml"


@dataclass(frozen=True, slots=True)
class Record:
    """An installation."""

    name: str
    """Of the model."""
    gallery: str = ""
    """Empty: it is not from a gallery, or that isn't known."""
    entry: str = ""
    """Its name in the gallery."""
    yaml_sha256: str = ""
    """Of the YAML as it was written; empty: there was none, or it isn't known."""
    has_yaml: bool = True
    """The model came with a YAML; without it, it is no longer installed."""
    files: tuple[File, ...] = ()
    """With the sha256 that they had."""
    templates: tuple[str, ...] = ()
    """Names, without `.tmpl`."""
    unpacked: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Files that came out of an archive, by its file name."""
    by_localai: bool = False
    """LocalAI wrote it, which notes no gallery."""

    def paths(self) -> list[str]:
        """Everything of the model in the models directory, but its YAML."""
        return [
            *(path for file in self.files for path in self.unpacked.get(file.filename, (file.filename,))),
            *(f"{name}.tmpl" for name in self.templates),
        ]

    def is_of(self, gallery: str, entry: str) -> bool:
        """Whether it is an installation of that entry, by whatever name. LocalAI's records have nothing but names."""
        if self.by_localai:
            return self.name.lower() == entry.replace("/", "__").lower()
        return bool(self.gallery) and self.gallery == gallery and self.entry.lower() == entry.lower()


def record_path(models_path: Path, name: str) -> Path:
    return models_path / f"{_PREFIX}{name}{_SUFFIX}"


def yaml_path(models_path: Path, name: str) -> Path:
    """Where the YAML of an installed model is."""
    return models_path / f"{name}.yaml"


def read(models_path: Path, name: str) -> Record | None:
    """The model's record. None where there is none; one that can't be read is logged and counts as none."""
    path = record_path(models_path, name)
    try:
        return _record(name, load_file(path))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ConfigInvalid) as error:
        log.warning("%s can't be read: %s", path, error)
        return None


def write(models_path: Path, plan: Plan, record: Record, config_text: str) -> None:
    """Replace the model's record. Beside it stands what LocalAI reads of one."""
    document: dict[str, Any] = {
        "name": plan.entry or plan.name,
        "description": plan.description,
        "icon": plan.icon,
        "license": plan.license,
        "urls": list(plan.urls),
        "tags": list(plan.tags),
        "config_file": config_text,
        "files": [
            {"filename": file.filename, "sha256": file.sha256, "uri": file.uri}
            | ({"parts": list(file.parts)} if file.parts else {})
            for file in record.files
        ],
        "prompt_templates": [{"name": template.name, "content": template.content} for template in plan.templates],
        "gallery": record.gallery,
        "entry": record.entry,
        "yaml_sha256": record.yaml_sha256,
        "unpacked": {archive: list(paths) for archive, paths in record.unpacked.items()},
    }
    write_text(record_path(models_path, plan.name), yaml.safe_dump(document, sort_keys=False, allow_unicode=True))


def record_of(plan: Plan, sha256: Mapping[str, str], unpacked: Mapping[str, tuple[str, ...]], text: str) -> Record:
    """The record of a plan that was carried out: its files' sums, and the text of its YAML."""
    return Record(
        name=plan.name,
        gallery=plan.gallery,
        entry=plan.entry,
        yaml_sha256=hashlib.sha256(text.encode()).hexdigest() if text else "",
        has_yaml=bool(text),
        files=tuple(replace(file, sha256=sha256.get(file.filename, file.sha256)) for file in plan.files),
        templates=tuple(template.name for template in plan.templates),
        unpacked=unpacked,
    )


def remove(models_path: Path, name: str) -> None:
    record_path(models_path, name).unlink(missing_ok=True)


def read_all(models_path: Path) -> list[Record]:
    """Every record, in the order of their names, of models that are no longer there too."""
    names = sorted(path.name[len(_PREFIX) : -len(_SUFFIX)] for path in models_path.glob(f"{_PREFIX}*{_SUFFIX}"))
    return [record for name in names if (record := read(models_path, name))]


def installed(models_path: Path) -> list[Record]:
    """The records of models that are there: with their YAML, or all their files where they never had one."""
    return [record for record in read_all(models_path) if is_there(models_path, record)]


def installed_entries(models_path: Path) -> Callable[[str, str], bool]:
    """Tells whether a gallery's entry is installed, under whatever name: `is_installed(gallery, entry)`."""
    records = installed(models_path)

    def is_installed(gallery: str, entry: str) -> bool:
        return any(record.is_of(gallery, entry) for record in records)

    return is_installed


def is_there(models_path: Path, record: Record) -> bool:
    """Whether the model is still installed: a YAML that someone removed took the model with it."""
    if record.has_yaml:
        return yaml_path(models_path, record.name).exists()
    return all((models_path / path).exists() for path in record.paths())


def _record(name: str, document: Any) -> Record:
    """Leniently: LocalAI's records have fewer keys, and nulls. Raises ConfigInvalid."""
    if not isinstance(document, Mapping):
        raise ConfigInvalid("expected a mapping")
    try:
        values = {key: value for key, value in document.items() if value is not None}
        by_localai = "yaml_sha256" not in values
        return Record(
            name=model_name(name),
            gallery=str(values.get("gallery", "")),
            entry=str(values.get("entry", "")),
            yaml_sha256=str(values.get("yaml_sha256", "")),
            has_yaml=by_localai or bool(values["yaml_sha256"]),
            files=tuple(
                File(
                    str(file["filename"]),
                    str(file.get("uri") or ""),
                    str(file.get("sha256") or ""),
                    tuple(file.get("parts") or ()),
                )
                for file in values.get("files", ())
            ),
            templates=tuple(str(template["name"]) for template in values.get("prompt_templates", ())),
            unpacked={str(key): tuple(paths) for key, paths in values.get("unpacked", {}).items()},
            by_localai=by_localai,
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigInvalid(f"is no record: {error!r}") from error
