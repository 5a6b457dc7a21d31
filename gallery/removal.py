"""Deletion of an installed model: it goes out of sight, its replicas end, then the files go that nothing else uses."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from deployments.backends.registry import for_file
from deployments.errors import ConfigInvalid, ModelNotFound
from gallery import records
from gallery.config_files import named_files
from gallery.locks import locked, locked_if_free
from gallery.paths import hidden, inside
from gallery.status import Phase, Progress
from gallery.threads import in_thread
from gallery.usage import Usage, configs
from gallery.weights import parts_of


class Models(Protocol):
    """The server's models, as far as the gallery has a say."""

    async def reload(self) -> None:
        """Return when every ingress knows what the models directory holds now."""
        ...

    async def removed(self, name: str) -> None:
        """Return when no replica of that model runs any more."""
        ...


@dataclass(frozen=True, slots=True)
class Removal:
    """What a deletion is to do; stored with its job, so that a killed one goes on."""

    name: str
    yaml: str = ""
    """File name of the model's config; empty: it has none."""
    files: tuple[str, ...] = ()
    """Weights and templates, relative to the models directory."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        return cls(**{**values, "files": tuple(values["files"])})


async def plan_removal(name: str, models_path: Path) -> Removal:
    """What deleting the model takes.

    `name` is a model's, or a loose weights file's. Raises ModelNotFound, and ConfigInvalid for a model whose config
    stands in one file with others.
    """
    return await in_thread(_plan, name, models_path)


async def carry_out(removal: Removal, models_path: Path, models: Models, progress: Progress) -> None:
    """Delete it. A deletion that was killed is carried out again, from the same Removal.

    The YAML, and weights that would be models without it, are renamed first: the model takes no more requests, and
    those that run end as they would have. If its replicas can't be ended the model is put back. Raises what `models`
    raises.
    """
    async with locked(models_path, f"model {removal.name}"):
        progress.phase(Phase.UNLOADING)
        await _set_aside(removal, models_path)
        try:
            await models.reload()
            for name in _models(removal):
                await models.removed(name)
        except Exception:
            await in_thread(_put_back, removal, models_path)
            raise
        progress.phase(Phase.DELETING)
        for filename in removal.files:
            async with locked_if_free(models_path, filename) as free:
                await in_thread(_delete if free else _reveal, removal, models_path, filename)
        await in_thread(_forget, removal, models_path)


async def remove(name: str, models_path: Path, models: Models, progress: Progress) -> None:
    """Both at once, for who stores no jobs."""
    await carry_out(await plan_removal(name, models_path), models_path, models, progress)


# ---- what there is to delete -----------------------------------------------------------------------------------------


def _plan(name: str, models_path: Path) -> Removal:
    found = list(configs(models_path))
    names = (name, name.replace("/", "__"))  # the second is what `name` was installed by
    own = [(path, config) for path, config in found if config.get("name", path.stem) in names]
    if not own:
        return _without_config(name, models_path)
    path, config = own[0]
    if len(own) > 1 or [other for other, _ in found].count(path) > 1:
        where = ", ".join(dict.fromkeys(other.name for other, _ in own))
        raise ConfigInvalid(f"{name}: {where} defines several models, or it twice; remove it there by hand")
    record = records.read(models_path, path.stem)
    files = [*(record.paths() if record else []), *named_files(config)]
    return Removal(str(config.get("name", path.stem)), path.name, _existing(models_path, files))


def _without_config(name: str, models_path: Path) -> Removal:
    """Of files alone that the gallery installed, or that someone put there."""
    file_name = name.replace("/", "__")
    record = records.read(models_path, file_name)
    if record and not record.has_yaml:
        return Removal(file_name, files=_existing(models_path, record.paths()))
    if "/" not in name and not name.startswith(".") and for_file(name) and (models_path / name).is_file():
        if user := Usage(models_path, but="").user_of(name):
            raise ModelNotFound(f"{name} is no model of its own, but a file of the model {user!r}")
        return Removal(name, files=_existing(models_path, parts_of(name)))
    raise ModelNotFound(f"no model {name!r} is installed in {models_path}")


def _existing(models_path: Path, files: list[str]) -> tuple[str, ...]:
    """The files among these names, folders as the files in them. What leads out of the directory is left out."""
    found: list[str] = []
    for filename in files:
        try:
            path = inside(models_path, filename)
        except ConfigInvalid:  # a hand-written config may name what isn't ours to delete
            continue
        if path.is_dir():
            found += [str(each.relative_to(models_path)) for each in sorted(path.rglob("*")) if not each.is_dir()]
        elif path.exists():
            found.append(filename)
    return tuple(dict.fromkeys(found))


# ---- steps -----------------------------------------------------------------------------------------------------------


def _models(removal: Removal) -> list[str]:
    """Names under which the server may run it: a config's, or those of loose weights."""
    loose = [filename for filename in removal.files if _is_loose(filename)]
    return [removal.name] if removal.yaml else loose or [removal.name]


def _is_loose(filename: str) -> bool:
    """Whether the server would take the file for a model if no config named it."""
    return "/" not in filename and for_file(filename) is not None


async def _set_aside(removal: Removal, models_path: Path) -> None:
    for filename in removal.files:
        if _is_loose(filename):
            async with locked_if_free(models_path, filename) as free:
                if free:
                    await in_thread(_hide_unused, removal, models_path, filename)
    if removal.yaml:
        await in_thread(_hide, models_path / removal.yaml)


def _hide_unused(removal: Removal, models_path: Path, filename: str) -> None:
    if Usage(models_path, but=removal.name).user_of(filename) is None:
        _hide(models_path / filename)


def _hide(path: Path) -> None:
    if path.exists():
        path.replace(hidden(path, ".removed"))


def _put_back(removal: Removal, models_path: Path) -> None:
    for filename in (*removal.files, *([removal.yaml] if removal.yaml else [])):
        _reveal(removal, models_path, filename)


def _reveal(removal: Removal, models_path: Path, filename: str) -> None:
    path = models_path / filename
    aside = hidden(path, ".removed")
    if aside.exists() and not path.exists():
        aside.replace(path)


def _delete(removal: Removal, models_path: Path, filename: str) -> None:
    """Delete a file of the model, unless another model uses it."""
    usage = Usage(models_path, but=removal.name)
    if usage.user_of(filename):
        _reveal(removal, models_path, filename)
        return
    path = inside(models_path, filename)
    for each in (path, hidden(path, ".removed")):
        each.unlink(missing_ok=True)
    usage.remove_empty_folders(filename)


def _forget(removal: Removal, models_path: Path) -> None:
    """The YAML for good, and the record, without which nobody would know of the files: last."""
    if removal.yaml:
        hidden(models_path / removal.yaml, ".removed").unlink(missing_ok=True)
    records.remove(models_path, Path(removal.yaml).stem if removal.yaml else removal.name)
