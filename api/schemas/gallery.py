"""What can be installed and from where, and what is asked to be, in LocalAI's terms."""

from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from api.schemas.common import WireModel
from deployments.errors import InvalidRequest
from gallery.names import model_name
from gallery.request import File, InstallRequest, is_address
from gallery.settings import Gallery

if TYPE_CHECKING:
    from gallery.galleries import Available  # and with it all that downloads: too much for an ingress

Text = Annotated[str, BeforeValidator(lambda value: "" if value is None else value)]
"""LocalAI's clients send null, or "", for what they leave out."""


def _list(value: object) -> object:
    return [] if value is None else value


def _object(value: object) -> object:
    return {} if value is None else value


Texts = Annotated[list[str], BeforeValidator(_list), Field(default_factory=list)]
Object = Annotated[dict[str, Any], BeforeValidator(_object), Field(default_factory=dict)]


# ---- requests --------------------------------------------------------------------------------------------------------


class ModelFile(WireModel):
    """One file of a model."""

    filename: str
    """Where it goes, relative to the models directory."""
    uri: Text = ""
    sha256: Text = ""

    # Ours
    parts: Texts
    """URIs of the pieces that make the file, in place of `uri`."""


class ApplyModel(WireModel):
    """A model to install. Of `id`, `config_url`, `url` and `config_file` the first that is set decides."""

    id: Text = ""
    """Name in a gallery: `name` or `gallery@name`."""
    config_url: Text = ""
    """Of a model's YAML."""
    url: Text = ""
    """Of a gallery's base config."""
    config_file: Annotated[dict[str, Any] | None, Field(description="A model's config.")] = None
    name: Text = ""
    """To install it by. Empty: its own."""
    overrides: Object
    """Merged into the model's config, deep."""
    files: Annotated[list[ModelFile], BeforeValidator(_list), Field(default_factory=list)]
    """In addition to the model's own."""
    description: Text = ""
    license: Text = ""
    icon: Text = ""
    urls: Texts
    tags: Texts


class Preferences(WireModel):
    """What LocalAI's clients may say about an import."""

    name: Text = ""
    description: Text = ""
    backend: Text = ""


class ImportURI(WireModel):
    """Weights, a repository of them, or a model's YAML, to install by their address alone."""

    uri: str
    name: Text = ""
    """To install it by. Empty: that of the file."""
    preferences: Annotated[Preferences, BeforeValidator(_object)] = Preferences()

    # Ours
    overrides: Object
    """Merged into the config that is made for the model, deep."""


class GalleryToAdd(WireModel):
    """A list of installable models."""

    name: str
    url: str
    """Of its index."""

    # Ours
    allow_pickles: bool = False
    """Its models may come as pickles, which run code of their author's when they are loaded."""


class GalleryToRemove(WireModel):
    name: str


def to_install_request(body: ApplyModel) -> InstallRequest:
    """Raises InvalidRequest when nothing is named, by an address that is none, or a file would leave the folder."""
    if not (body.id or body.config_url or body.url or body.config_file):
        raise InvalidRequest(
            "Nothing to install: send `id`, the name of a model in a gallery (GET /models/available lists them), "
            "or one of `config_url`, `url` and `config_file`."
        ).at("id")
    _require_addresses({"config_url": body.config_url, "url": body.url}.items())
    if body.name:
        model_name(body.name)
    for i, file in enumerate(body.files):
        _require_inside(file.filename, f"files[{i}].filename")
        uris = [(f"files[{i}].uri", file.uri), *((f"files[{i}].parts[{j}]", part) for j, part in enumerate(file.parts))]
        _require_addresses(uris)
    return InstallRequest(
        id=body.id,
        config_url=body.config_url,
        url=body.url,
        config_file=body.config_file,
        name=body.name,
        overrides=body.overrides,
        files=tuple(File(file.filename, file.uri, file.sha256, tuple(file.parts)) for file in body.files),
        description=body.description,
        license=body.license,
        icon=body.icon,
        urls=tuple(body.urls),
        tags=tuple(body.tags),
    )


def to_import_request(body: ImportURI) -> InstallRequest:
    """Raises InvalidRequest when the address is none, or the name can't be one."""
    if not body.uri:
        raise InvalidRequest("Nothing to install: 'uri' is empty.").at("uri")
    _require_addresses([("uri", body.uri)])
    preferred = body.preferences
    name = body.name or preferred.name
    if name:
        model_name(name)
    backend = {"backend": preferred.backend} if preferred.backend else {}
    return InstallRequest(
        weights_uri=body.uri, name=name, overrides=backend | body.overrides, description=preferred.description
    )


def to_gallery(body: GalleryToAdd) -> Gallery:
    """Raises InvalidRequest when the address is none."""
    if not body.name.strip():
        raise InvalidRequest("The gallery needs a name.").at("name")
    if not is_address(body.url):
        raise _no_address(body.url).at("url")
    return Gallery(body.name.strip(), body.url, body.allow_pickles)


def _require_addresses(uris: Iterable[tuple[str, str]]) -> None:
    for field, uri in uris:
        if uri and not is_address(uri):
            raise _no_address(uri).at(field)


def _no_address(uri: str) -> InvalidRequest:
    return InvalidRequest(f"{uri[:200]!r} has no scheme; write an address such as https://… or huggingface://…")


def _require_inside(filename: str, field: str) -> None:
    path = PurePosixPath(filename)
    if path.is_absolute() or ".." in path.parts or "\\" in filename or "\0" in filename or not path.name:
        raise InvalidRequest(f"{filename[:200]!r} is not a path inside the models directory.").at(field)


# ---- answers ---------------------------------------------------------------------------------------------------------


class ListedGallery(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)

    name: str
    url: str

    # Ours
    allow_pickles: bool
    problem: str | None
    """Why its index could not be read, when that was last tried. What is known of it from before is still offered."""


class GalleryName(BaseModel):
    name: str
    url: str


class ListedFile(BaseModel):
    filename: str
    uri: str
    sha256: str

    # Ours
    parts: list[str]


class ListedModel(BaseModel):
    """A model that can be installed."""

    name: str
    url: str
    config_file: dict[str, Any]
    overrides: dict[str, Any]
    files: list[ListedFile]
    urls: list[str]
    tags: list[str]
    description: str
    license: str
    icon: str
    gallery: GalleryName
    installed: bool


def to_listed_gallery(gallery: Gallery, problem: str | None) -> ListedGallery:
    return ListedGallery(name=gallery.name, url=gallery.url, allow_pickles=gallery.allow_pickles, problem=problem)


def to_listed_model(model: "Available") -> dict[str, Any]:
    """A ListedModel as plain JSON: there are thousands in one answer."""
    entry = model.entry
    return {
        "name": entry.name,
        "url": entry.url,
        "config_file": entry.config_file or {},
        "overrides": entry.overrides,
        "files": [
            {"filename": file.filename, "uri": file.uri, "sha256": file.sha256, "parts": list(file.parts)}
            for file in entry.files
        ],
        "urls": list(entry.urls),
        "tags": list(entry.tags),
        "description": entry.description,
        "license": entry.license,
        "icon": entry.icon,
        "gallery": {"name": model.gallery.name, "url": model.gallery.url},
        "installed": model.installed,
    }
