"""What the gallery needs to know to work: a standard-library dataclass that crosses to its process."""

from dataclasses import dataclass, field
from pathlib import Path

from gallery.request import InstallRequest

ALL_SCHEMES = ("https", "http", "file", "huggingface", "hf", "github", "oci", "ollama", "s3", "pypi")
"""Every scheme of `gallery/sources`; the setting `download_schemes` allows some of them."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """A list of installable models, by its address."""

    name: str
    url: str
    """Of its index: any URI that `gallery/sources` can fetch."""
    allow_pickles: bool = False
    """Its models may come as pickles (`.bin`, `.pt`, …), which run code of their author's when they are loaded."""


@dataclass(frozen=True, slots=True)
class DownloadSettings:
    """How files are fetched, and from where they may come."""

    schemes: tuple[str, ...] = ALL_SCHEMES
    allow: tuple[str, ...] = ()
    """Hosts (`host`, `host:port`) and networks (CIDR) that may be reached although their addresses are not public."""
    file_roots: tuple[str, ...] = ()
    """Folders that `file://` may read."""
    connections: int = 4
    """To one server for one large file."""
    stall_timeout: float = 30.0
    """Seconds without a byte after which a connection is given up and tried again."""
    retries: int = 8
    """Tries in a row that bring nothing new before a download has failed."""
    backoff: float = 1.0
    """Seconds before the first of them; each next one waits twice as long, up to a minute."""
    min_free: int = 1 << 30
    """Bytes of the disk that stay free."""
    limit: int = 0
    """Bytes that one installation may need; 0: no limit."""
    hf_endpoint: str = "https://huggingface.co"
    hf_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class GallerySettings:
    """All of it."""

    models_path: Path
    data_path: Path
    database_url: str = field(repr=False)
    """SQLAlchemy's: `sqlite:////…/manta.db`, `postgresql+psycopg://…`."""
    galleries: tuple[Gallery, ...] = ()
    """Those of the settings; more come by the API."""
    downloads: DownloadSettings = DownloadSettings()
    parallel_jobs: int = 4
    """Jobs that run at once; the others wait."""
    index_ttl: float = 3600.0
    """Seconds after which an index is fetched again."""
    preload: tuple[InstallRequest, ...] = ()
    """Installed at the start, where they aren't yet."""
