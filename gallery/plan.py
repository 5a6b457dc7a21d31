"""What exactly an installation is to do: resolved once, stored with its job, carried out by `gallery/install.py`."""

import asyncio
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, Self

from deployments.config_file import load_yaml
from deployments.config_source import Source, take_configs
from deployments.errors import ConfigInvalid, InvalidRequest
from gallery import weights
from gallery.config_files import with_local_files
from gallery.index import BaseConfig, Entry, Template, Texts, merge, read_base
from gallery.names import model_name
from gallery.request import File, InstallRequest
from gallery.settings import Gallery
from gallery.sources.uri import local_name


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is needed to install a model, with nothing looked up again."""

    name: str
    """Of the model, and of its YAML."""
    config: dict[str, Any] | None = None
    """The model's YAML, complete. None: files alone."""
    files: tuple[File, ...] = ()
    templates: tuple[Template, ...] = ()
    gallery: str = ""
    """Name of the gallery it came from; empty: none."""
    entry: str = ""
    """Its name there."""
    description: str = ""
    license: str = ""
    icon: str = ""
    urls: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    allow_pickles: bool = False
    warnings: tuple[str, ...] = ()
    """What the user should know, such as a key that the server will refuse. `Installer.install` reports them."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        files = tuple(File(**{**file, "parts": tuple(file["parts"])}) for file in values["files"])
        templates = tuple(Template(**template) for template in values["templates"])
        texts = {key: tuple(values[key]) for key in ("urls", "tags", "warnings")}
        return cls(**{**values, "files": files, "templates": templates, **texts})


class Galleries(Protocol):
    """Where entries are found by name."""

    async def find(self, name: str) -> tuple[Gallery, Entry]:
        """The entry `name`, or `gallery@name`, in any case. Raises ModelNotFound."""
        ...


class Lookup(Texts, weights.Lookup, Protocol):
    """The part of `gallery.sources.Sources` that a plan needs."""


async def resolve(request: InstallRequest, sources: Lookup, galleries: Galleries) -> Plan:
    """What `request` asks for, in full.

    The request's overrides and files are laid on what was found (localai.md §3.2). A key that the server will refuse
    is a warning: the files are of use all the same. Raises ModelNotFound, InvalidRequest, ConfigInvalid, and what
    `sources` raises.
    """
    found = await _found(request, sources, galleries)
    config, linked = with_local_files(merge(found.config or {}, request.overrides))
    files = _distinct(*linked, *found.files, *request.files)
    if not config and not files:
        raise InvalidRequest("there is nothing to install: neither a config nor files")
    name = model_name(request.name or found.name)
    if config:
        config = {"name": name, **{key: value for key, value in config.items() if key != "name"}}
    if request.weights_uri and not config.get("backend"):
        raise InvalidRequest(
            f"{request.weights_uri}: the name does not tell which backend reads it; say so: "
            '{"overrides": {"backend": "…"}}'
        )
    return replace(
        _described(found, request),
        name=name,
        config=config or None,
        files=files,
        # The gallery's owner is trusted with pickles, not whoever else adds files.
        allow_pickles=found.allow_pickles and set(files) <= {*found.files, *with_local_files(found.config or {})[1]},
        warnings=tuple(_warnings(config)) if config else (),
    )


# ---- what is asked for -----------------------------------------------------------------------------------------------


async def _found(request: InstallRequest, sources: Lookup, galleries: Galleries) -> Plan:
    """The plan before the request's additions. Of several ways the first that is asked for decides."""
    if request.id:
        return await _from_gallery(request.id, sources, galleries)
    if request.config_url:
        base = await _from_address(request.config_url, sources)
    elif request.url:
        base = await _from_yaml(request.url, sources)
    elif request.config_file is not None:
        base = BaseConfig(str(request.config_file.get("name") or ""), request.config_file)
    elif request.weights_uri:
        base = await _from_address(request.weights_uri, sources)
    else:
        raise InvalidRequest(
            "there is nothing to install: name a model of a gallery (id), or give its url, config_url or config_file"
        )
    return _plan(base)


async def _from_gallery(wanted: str, sources: Lookup, galleries: Galleries) -> Plan:
    gallery, entry = await galleries.find(wanted)
    base = BaseConfig(config_file=entry.config_file)
    if entry.url:
        base = read_base(await sources.text(entry.url), entry.url)
    plan = _plan(base)
    return replace(
        _described(plan, entry),
        name=entry.name,
        config=merge(plan.config or {}, entry.overrides),
        files=_distinct(*plan.files, *entry.files),
        gallery=gallery.name,
        entry=entry.name,
        allow_pickles=gallery.allow_pickles,
    )


async def _from_address(uri: str, sources: Lookup) -> BaseConfig:
    """Of a YAML or of weights, whichever it is."""
    if local_name(uri).lower().endswith((".yaml", ".yml")):
        return await _from_yaml(uri, sources)
    return await weights.from_address(uri, sources)


async def _from_yaml(uri: str, sources: Lookup) -> BaseConfig:
    """A gallery's base config, or a model's own YAML. Raises ConfigInvalid."""
    text = await sources.text(uri)
    try:
        document = await asyncio.to_thread(load_yaml, text)
    except ConfigInvalid as error:
        raise ConfigInvalid(f"{uri}: {error.message}") from error
    if not isinstance(document, dict):
        raise ConfigInvalid(f"{uri}: expected one model's YAML, a mapping of keys such as `name:`")
    stem = PurePosixPath(local_name(uri)).stem
    if document.keys() & _BASE_KEYS:
        base = read_base(text, uri)
        return base if base.name else replace(base, name=stem)
    return BaseConfig(str(document.get("name") or stem), document)


_BASE_KEYS = {"config_file", "files", "prompt_templates"}
"""Tell a gallery's base config from a model's YAML, which has none of them."""


def _plan(base: BaseConfig) -> Plan:
    return Plan(
        name=base.name,
        config=base.config_file,
        files=base.files,
        templates=base.prompt_templates,
        description=base.description,
        license=base.license,
        icon=base.icon,
        urls=base.urls,
    )


def _described(plan: Plan, about: Entry | InstallRequest) -> Plan:
    """The plan with what is said of the model beside its files."""
    return replace(
        plan,
        description=about.description or plan.description,
        license=about.license or plan.license,
        icon=about.icon or plan.icon,
        urls=(*plan.urls, *about.urls),
        tags=(*plan.tags, *about.tags),
    )


def _distinct(*files: File) -> tuple[File, ...]:
    """Of files with the same name the last, in the place of the first."""
    return tuple({file.filename: file for file in files}.values())


def _warnings(config: dict[str, Any]) -> list[str]:
    """What the server will say of the config once it is installed."""
    source = Source(Path(f"{config['name']}.yaml"), None)
    take_configs(source, config)
    return [f"the server will refuse this model's config: {problem}" for problem in source.problems]
