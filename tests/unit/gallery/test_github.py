"""`github:` against a server that stands in for GitHub's raw files."""

from collections.abc import AsyncIterator, Iterator

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.github import RAW, GitHub
from tests.file_server import FileServer


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
async def github(server: FileServer) -> AsyncIterator[GitHub]:
    settings = DownloadSettings(allow=("127.0.0.1",))
    async with Network(settings) as network:
        yield GitHub(network, settings, raw=server.url)


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("github://mudler/LocalAI/gallery/index.yaml@master", "/mudler/LocalAI/master/gallery/index.yaml"),
        ("github://o/r.py/a.yaml", "/o/r.py/main/a.yaml"),
        ("github://o/r/a b.yaml@feature/x", "/o/r/feature/x/a%20b.yaml"),
        ("github://o/r@v1/a%20b.yaml", "/o/r/v1/a%20b.yaml"),
    ],
)
async def test_a_file_of_a_branch(server, github, uri, path) -> None:
    server.add(path, path)
    remote = (await github.locate(uri)).remote
    assert b"".join([block async for block in remote.read(0, None)]) == path.encode()


async def test_what_is_not_there_is_named(server, github) -> None:
    with pytest.raises(DownloadFailed, match=r"/o/r/main/none\.yaml: 404 Not Found"):
        await github.locate("github://o/r/none.yaml")


@pytest.mark.parametrize("uri", ["github://o", "github://o/r", "github://o/r@main", "github://o/r/../../x/y/main/z"])
async def test_what_names_no_file_is_refused(server, github, uri) -> None:
    with pytest.raises(ConfigInvalid, match="github://"):
        await github.locate(uri)
    assert server.requests == []


def test_the_files_are_githubs() -> None:
    assert RAW == "https://raw.githubusercontent.com"
