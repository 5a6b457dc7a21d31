"""`github:owner/repository/path@branch`: a file in a public repository on GitHub, as LocalAI writes it."""

from urllib.parse import quote

from deployments.errors import ConfigInvalid
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.base import Whole
from gallery.sources.http import open_remote
from gallery.sources.uri import InRepository

RAW = "https://raw.githubusercontent.com"
DEFAULT_BRANCH = "main"


class GitHub:
    """Files of repositories, named by `github://owner/repository/path@branch`."""

    def __init__(self, network: Network, settings: DownloadSettings, *, raw: str = RAW) -> None:
        self._network = network
        self._raw = raw

    async def locate(self, uri: str) -> Whole:
        place = InRepository.parse(uri)
        if not place.path:
            raise ConfigInvalid(f"{uri}: expected github://owner/repository/path, and @branch where it isn't main")
        branch = quote(place.revision or DEFAULT_BRANCH)
        return Whole(await open_remote(self._network, f"{self._raw}/{place.repository}/{branch}/{place.quoted_path}"))
