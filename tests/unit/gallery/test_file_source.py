"""The source of file://: only what lies in the roots, only regular files, and reads that notice changes."""

import os
from contextlib import aclosing
from pathlib import Path
from urllib.parse import quote

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Changed
from gallery.settings import DownloadSettings
from gallery.sources.base import Remote
from gallery.sources.file import File, open_file

CONTENT = bytes(range(256)) * 10_000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "model.gguf").write_bytes(CONTENT)
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "root"


@pytest.fixture
def source(root: Path) -> File:
    return File(DownloadSettings(file_roots=(str(root),)))


async def read(remote: Remote, start: int = 0, end: int | None = None) -> bytes:
    async with aclosing(remote.read(start, end)) as blocks:
        return b"".join([block async for block in blocks])


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 100), (1_500_000, 1_500_001), (2_000_000, None), (7, 7)])
async def test_read(source: File, root: Path, start: int, end: int | None) -> None:
    remote = (await source.locate(f"file://{root}/model.gguf")).remote
    assert (remote.size, remote.ranges) == (len(CONTENT), True)
    assert await read(remote, start, end) == CONTENT[start:end]


@pytest.mark.parametrize("name", ["a b.gguf", "50%.gguf", "a?b#c.gguf", "größe.gguf"])
async def test_names_are_percent_encoded(source: File, root: Path, name: str) -> None:
    (root / name).write_bytes(b"hello")
    assert await read((await source.locate(f"file://{quote(str(root / name))}")).remote) == b"hello"
    assert await read((await source.locate(f"FILE://localhost{quote(str(root / name))}")).remote) == b"hello"


@pytest.mark.parametrize(
    "path", ["../secret", "%2e%2e/secret", "link", "linked/secret", "../root2/a", "..", "none/../../secret"]
)
async def test_nothing_outside_the_roots(source: File, root: Path, path: str) -> None:
    (root / "link").symlink_to(root.parent / "secret")
    (root / "linked").symlink_to(root.parent)
    (root.parent / "root2").mkdir()
    (root.parent / "root2" / "a").write_text("secret")
    with pytest.raises(ConfigInvalid, match="MANTA_FILE_ROOTS"):
        await source.locate(f"file://{root}/{path}")


async def test_links_within_the_roots(source: File, root: Path) -> None:
    (root / "link").symlink_to("model.gguf")
    assert await read((await source.locate(f"file://{root}/link")).remote) == CONTENT


async def test_a_root_that_is_a_link(root: Path) -> None:
    (root.parent / "alias").symlink_to(root)
    source = File(DownloadSettings(file_roots=(str(root.parent / "alias"),)))
    assert await read((await source.locate(f"file://{root}/model.gguf")).remote) == CONTENT


async def test_no_roots(root: Path) -> None:
    with pytest.raises(ConfigInvalid, match="MANTA_FILE_ROOTS"):
        await File(DownloadSettings()).locate(f"file://{root}/model.gguf")


@pytest.mark.parametrize(
    "uri", ["file://model.gguf", "file:model.gguf", "file://host/etc/passwd", "file://", "/etc/passwd"]
)
async def test_uris_that_are_none(source: File, uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="file:///absolute/path"):
        await source.locate(uri)


async def test_a_path_that_no_file_can_have(source: File) -> None:
    with pytest.raises(ConfigInvalid):
        await source.locate("file:///a%00b")


async def test_folders_and_pipes(source: File, root: Path) -> None:
    (root / "folder").mkdir()
    os.mkfifo(root / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(ConfigInvalid, match=r"not a regular file.*MANTA_FILE_ROOTS"):
            await source.locate(f"file://{root}/{name}")


async def test_no_file(source: File, root: Path) -> None:
    with pytest.raises(DownloadFailed, match="No such file"):
        await source.locate(f"file://{root}/none")


async def test_a_file_that_changes(root: Path) -> None:
    remote = await open_file(root / "model.gguf", sha256="abc")
    assert remote.sha256 == "abc"
    (root / "model.gguf").write_bytes(b"changed")
    with pytest.raises(Changed):
        await read(remote)
    (root / "model.gguf").unlink()
    with pytest.raises(DownloadFailed, match="No such file"):
        await read(remote)
