"""The block `gallery:` of the settings: galleries, downloads, and what is installed at the start."""

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict, Field, SecretStr

from api.environment import Env
from api.schemas.gallery import ApplyModel
from api.setting_types import CommaList, Duration, JSONList, Section, WebAddress, Whole
from gallery.request import is_address
from gallery.settings import ALL_SCHEMES, DownloadSettings, Gallery

_STARTER = Path(__file__).resolve().parents[1] / "configs" / "gallery" / "starter.yaml"
_SHIPPED = DownloadSettings()
_MiB = 1 << 20


def _address(text: str) -> str:
    if not is_address(text):
        raise ValueError("expected an address such as https://… or github:owner/repository/index.yaml@branch")
    return text


def _scheme(text: str) -> str:
    scheme = text.removesuffix("://").lower()
    if scheme not in ALL_SCHEMES:
        raise ValueError(f"no such scheme; there are {', '.join(ALL_SCHEMES)}")
    return scheme


def _host_or_network(text: str) -> str:
    if "://" in text:
        raise ValueError("expected a host, host:port or network such as 10.0.0.0/8, not an address with a scheme")
    if "/" in text:
        ip_network(text)  # says what is wrong
    return text


def _word(word: str | Path) -> str | Path:
    """LocalAI's `MODELS` mixes names, addresses and paths."""
    return Path(word) if str(word).endswith((".yaml", ".yml")) and not is_address(str(word)) else word


class GalleryRow(Section):
    """One gallery."""

    name: Annotated[str, Field(pattern=r"^[^@/\\]+$")]
    url: Annotated[str, AfterValidator(_address)]
    allow_pickles: bool = False

    def __str__(self) -> str:
        return self.name


def _distinct(galleries: tuple[GalleryRow, ...]) -> tuple[GalleryRow, ...]:
    if len({gallery.name for gallery in galleries}) < len(galleries):
        raise ValueError("two galleries have the same name")
    return galleries


class PreloadModel(ApplyModel):
    """What `POST /models/apply` takes; but an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid")


class GalleryBlock(Section):
    """Models that can be installed, and how."""

    galleries: Annotated[tuple[GalleryRow, ...], JSONList, AfterValidator(_distinct), Env(("GALLERIES",))] = (
        GalleryRow(name="manta", url=_STARTER.as_uri()),
        GalleryRow(name="localai", url="github:mudler/LocalAI/gallery/index.yaml@master"),
    )
    """Lists of models, searched in this order: `name`, `url`, and `allow_pickles` for weights that can run code."""
    gallery_ttl: Annotated[Duration, Env()] = 3600.0
    """A gallery's list is fetched again after so long."""
    disable_gallery_endpoint: Annotated[bool, Env(("DISABLE_GALLERY_ENDPOINT",))] = False
    """Serve no routes that install or delete models."""

    install: Annotated[tuple[Annotated[str | Path, AfterValidator(_word)], ...], CommaList, Env(("MODELS",))] = ()
    """Installed at the start, comma-separated: names in a gallery, addresses, YAML files."""
    preload_models: Annotated[tuple[PreloadModel, ...], JSONList, Env(("PRELOAD_MODELS",))] = ()
    """Installed at the start: what `POST /models/apply` takes, a list of it."""
    preload_models_config: Annotated[Path | None, Env(("PRELOAD_MODELS_CONFIG",))] = None
    """A YAML file of such a list."""

    parallel_jobs: Annotated[Whole, Field(ge=1), Env()] = 4
    """Models installed at once; the others wait."""
    download_schemes: Annotated[tuple[Annotated[str, AfterValidator(_scheme)], ...], CommaList, Env()] = ALL_SCHEMES
    """Kinds of address that files may come from."""
    download_allow: Annotated[tuple[Annotated[str, AfterValidator(_host_or_network)], ...], CommaList, Env()] = ()
    """Hosts, host:port and networks that may be reached although their addresses are not public, comma-separated."""
    file_roots: Annotated[tuple[Path, ...], CommaList, Env()] = ()
    """Folders that `file://` may read, comma-separated."""
    download_connections: Annotated[Whole, Field(ge=1), Env()] = _SHIPPED.connections
    """Connections to one server for one large file."""
    download_stall_timeout: Annotated[Duration, Field(gt=0), Env()] = _SHIPPED.stall_timeout
    """A connection that brings nothing for so long is given up and tried again."""
    download_retries: Annotated[Whole, Env()] = _SHIPPED.retries
    """Tries in a row that bring nothing new before a download has failed."""
    min_free_disk_mb: Annotated[Whole, Env()] = _SHIPPED.min_free // _MiB
    """What stays free on the disk, MiB."""
    download_limit_mb: Annotated[Whole, Env()] = _SHIPPED.limit // _MiB
    """The largest installation, MiB; 0: no limit."""
    hf_endpoint: Annotated[WebAddress, Env(("HF_ENDPOINT", "HF_MIRROR"))] = _SHIPPED.hf_endpoint
    """Where Hugging Face's hub, or a mirror of it, is."""
    hf_token: Annotated[SecretStr, Env(("HF_TOKEN",))] = SecretStr("")
    """For gated models of the hub."""

    def rows(self) -> tuple[Gallery, ...]:
        return tuple(Gallery(row.name, row.url, row.allow_pickles) for row in self.galleries)

    def downloads(self) -> DownloadSettings:
        """How files are fetched. The gallery that comes with Manta can always be read."""
        return DownloadSettings(
            schemes=self.download_schemes,
            allow=self.download_allow,
            file_roots=(str(_STARTER.parent), *map(str, self.file_roots)),
            connections=self.download_connections,
            stall_timeout=self.download_stall_timeout,
            retries=self.download_retries,
            min_free=self.min_free_disk_mb * _MiB,
            limit=self.download_limit_mb * _MiB,
            hf_endpoint=self.hf_endpoint,
            hf_token=self.hf_token.get_secret_value(),
        )
