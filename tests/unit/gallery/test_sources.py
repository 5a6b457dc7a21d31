"""The table of sources: which one a URI goes to, what may be used, texts and listings."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Interrupted
from gallery.settings import ALL_SCHEMES, DownloadSettings
from gallery.sources import SOURCES, TRIES, Sources, local_name
from gallery.sources.base import Listed, Listing, Whole
from gallery.sources.uri import Address, InRepository
from tests.file_server import FileServer


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as server:
        yield server


@pytest.fixture
async def sources(tmp_path: Path) -> AsyncIterator[Sources]:
    settings = DownloadSettings(allow=("127.0.0.1",), file_roots=(str(tmp_path),), backoff=0.001, stall_timeout=5)
    async with Sources(settings) as sources:
        yield sources


def test_every_scheme_of_the_settings_has_a_source() -> None:
    assert {Address.parse(f"{scheme}://x").scheme for scheme in ALL_SCHEMES} == set(SOURCES)


async def test_sources_that_hold_something_open_are_closed_with_the_block() -> None:
    async with Sources(DownloadSettings()) as sources:
        s3 = sources._sources["s3"]
    assert s3._threads._shutdown


# ---- spellings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "uri"),
    [
        ("https://host/a.gguf?x=1", "https://host/a.gguf?x=1"),
        ("HTTPS://host/a.gguf", "https://host/a.gguf"),
        (" file:///a.yaml\n", "file:///a.yaml"),
        ("github:mudler/LocalAI/gallery/index.yaml@master", "github://mudler/LocalAI/gallery/index.yaml@master"),
        ("github://o/r/f", "github://o/r/f"),
        ("https://github.com/o/r/blob/main/a/b.yaml", "github://o/r/a/b.yaml@main"),
        ("https://github.com/o/r/releases/download/1/a.gguf", "https://github.com/o/r/releases/download/1/a.gguf"),
        ("hf://o/r/a/b.gguf", "huggingface://o/r/a/b.gguf"),
        ("hf.co/o/r", "huggingface://o/r"),
        ("huggingface.co/o/r/a.gguf", "huggingface://o/r/a.gguf"),
        ("huggingface.co/o/r@dev/a.gguf", "huggingface://o/r@dev/a.gguf"),
        ("https://huggingface.co/o/r", "huggingface://o/r"),
        ("https://huggingface.co/o/r/tree/main", "huggingface://o/r@main"),
        ("https://huggingface.co/o/r/tree/main/a/b", "huggingface://o/r@main/a/b"),
        ("https://huggingface.co/o/r/resolve/main/a/b.gguf?download=true", "huggingface://o/r@main/a/b.gguf"),
        ("https://huggingface.co/o/r/blob/refs%2Fpr%2F1/b.gguf", "huggingface://o/r@refs%2Fpr%2F1/b.gguf"),
        ("https://hf.co/o/r/resolve/refs/pr/1/b.gguf", "huggingface://o/r@refs/pr/1/b.gguf"),
        ("https://huggingface.co/datasets/o/r/resolve/main/a", "https://huggingface.co/datasets/o/r/resolve/main/a"),
        ("https://huggingface.co.evil.test/o/r", "https://huggingface.co.evil.test/o/r"),
        ("ghcr.io/o/r:1", "oci://ghcr.io/o/r:1"),
        ("quay.io/o/r", "oci://quay.io/o/r"),
        ("registry.ollama.ai/library/gemma:2b", "ollama://registry.ollama.ai/library/gemma:2b"),
        ("ollama://gemma:2b", "ollama://gemma:2b"),
    ],
)
def test_addresses_are_brought_into_one_spelling(written: str, uri: str) -> None:
    assert Address.parse(written).uri == uri


@pytest.mark.parametrize("uri", ["", "model.gguf", "C:\\model.gguf", "://x", "https://", "/etc/passwd", "1://x"])
def test_what_is_no_address_is_refused(uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="expected <scheme>://"):
        Address.parse(uri)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("o/r/a/b.gguf", InRepository("o/r", "a/b.gguf", "")),
        ("o/r/a/b.gguf@dev", InRepository("o/r", "a/b.gguf", "dev")),
        ("o/r/a/b.gguf@feature/x", InRepository("o/r", "a/b.gguf", "feature/x")),
        ("o/r@dev/a/b@c.gguf", InRepository("o/r", "a/b@c.gguf", "dev")),
        ("o/r@refs/pr/1/b.gguf", InRepository("o/r", "b.gguf", "refs/pr/1")),
        ("o/r@refs/pr/1", InRepository("o/r", "", "refs/pr/1")),
        ("o/r/", InRepository("o/r", "", "")),
        ("o/r/a%20b%40c.gguf", InRepository("o/r", "a b@c.gguf", "")),
    ],
)
def test_a_place_in_a_repository(rest: str, expected: InRepository) -> None:
    assert InRepository.parse(f"huggingface://{rest}") == expected


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("https://host/a/b%20c.gguf?download=true#x", "b c.gguf"),
        ("huggingface://o/r/a/b.gguf@dev", "b.gguf"),
        ("hf://o/r@dev/a/b.gguf", "b.gguf"),
        ("https://huggingface.co/o/r/resolve/main/b.gguf?download=true", "b.gguf"),
        ("hf://o/Some-Model", "Some-Model"),
        ("github:o/r/a/index.yaml@feature/x", "index.yaml"),
        ("ollama://gemma:2b", "gemma__2b.gguf"),
        ("ollama://hf.co/o/r:Q4", "hf.co__o__r__Q4.gguf"),
        ("oci://ghcr.io/o/r:1", "ghcr.io__o__r__1"),
        ("oci://host:5000/r@sha256:ab", "host__5000__r__sha256__ab"),
        ("s3://bucket/a/b.gguf?versionId=1", "b.gguf"),
        ("file:///a/b.yaml", "b.yaml"),
        ("pypi://a==1/b/c.gguf", "c.gguf"),
    ],
)
def test_a_file_has_a_name_of_its_own(uri: str, name: str) -> None:
    assert local_name(uri) == Sources.local_name(uri) == name


@pytest.mark.parametrize(
    "uri",
    ["https://host", "https://host/", "https://host/%2e%2e", "https://host/.hidden", "https://h/a%2F..%2F..", "s3://b"],
)
def test_what_has_no_file_name_is_refused(uri: str) -> None:
    with pytest.raises(ConfigInvalid, match="names no file"):
        local_name(uri)


# ---- locating --------------------------------------------------------------------------------------------------------


async def test_a_scheme_without_a_source_is_named_with_those_that_have_one(sources) -> None:
    with pytest.raises(
        ConfigInvalid, match=r"carrier://pigeon: no source for carrier://; known are https://, .*pypi://"
    ):
        await sources.locate("carrier://pigeon")


@pytest.mark.parametrize(
    ("schemes", "uri", "allowed"),
    [
        (("https",), "oci://a/b", False),
        (("huggingface",), "hf://o/r/f", True),
        (("hf",), "huggingface://o/r/f", True),
        (("https",), "hf://o/r/f", False),
        (("https",), "https://huggingface.co/o/r/resolve/main/f", True),
        (("hf",), "https://huggingface.co/o/r/resolve/main/f", True),
        (("hf",), "https://host/f", False),
        (("https",), "http://host/f", False),
        ((), "file:///f", False),
    ],
)
async def test_schemes_may_be_forbidden(schemes, uri, allowed) -> None:
    async with Sources(DownloadSettings(schemes=schemes)) as sources:
        if allowed:
            assert sources._source(uri)
        else:
            with pytest.raises(ConfigInvalid, match="is not allowed; the setting download_schemes"):
                await sources.locate(uri)


async def test_a_file_is_located_by_its_scheme(sources, server, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("name: a")
    for uri in ((tmp_path / "a.yaml").as_uri(), server.add("a.yaml", "name: a")):
        content = await sources.locate(uri)
        assert isinstance(content, Whole)
        assert content.remote.size == 7


# ---- texts -----------------------------------------------------------------------------------------------------------


async def test_a_text_is_read_whole(sources, server) -> None:
    text = "- name: größe\n" * 10_000
    assert await sources.text(server.add("index.yaml", text)) == text
    assert await sources.text(server.add("bom.yaml", "\N{ZERO WIDTH NO-BREAK SPACE}name: a")) == "name: a"


async def test_a_text_is_asked_for_again_when_it_breaks_off(sources, server) -> None:
    assert await sources.text(server.add("a", "x" * 100_000, cut_after=10, cuts=2)) == "x" * 100_000
    assert await sources.text(server.add("b", "b", unavailable=TRIES - 1)) == "b"


async def test_after_a_few_tries_a_text_is_given_up(sources, server) -> None:
    url = server.add("a", "x" * 100_000, cut_after=10)
    with pytest.raises(Interrupted, match=url):
        await sources.text(url)
    assert len(server.requests_of("/a")) == 2 * TRIES
    url = server.add("b", "b", unavailable=1000)
    with pytest.raises(Interrupted, match=f"{url}: 503"):
        await sources.text(url)
    assert len(server.requests_of("/b")) == TRIES


async def test_what_another_try_will_not_mend_is_not_tried_again(sources, server) -> None:
    with pytest.raises(DownloadFailed, match="404 Not Found"):
        await sources.text(f"{server.url}/none")
    assert len(server.requests) == 1


@pytest.mark.parametrize("fields", [{}, {"chunked": True}])
async def test_a_text_has_a_limit(sources, server, fields) -> None:
    url = server.add("large", size=200 << 20, **fields)
    with pytest.raises(DownloadFailed, match=f"{url}: larger than 1 MiB"):
        await sources.text(url, limit=1 << 20)
    assert server.served["/large"] < 100 << 20


async def test_what_is_no_text_is_said_to_be_none(sources, server) -> None:
    url = server.add("a.gguf", b"GGUF\xff\xfe")
    with pytest.raises(DownloadFailed, match=f"{url}: is not UTF-8 text: .* at byte 4"):
        await sources.text(url)


# ---- listings --------------------------------------------------------------------------------------------------------


async def test_only_repositories_can_be_listed(sources) -> None:
    assert [scheme for scheme, source in sources._sources.items() if isinstance(source, Listing)] == ["huggingface"]
    with pytest.raises(ConfigInvalid, match="https:// names single files; folders: huggingface://"):
        await sources.listing("https://host/folder/")


async def test_a_listing_is_asked_for_again_when_the_hub_is_busy(server) -> None:
    page = '[{"type": "file", "path": "a.gguf", "size": 130, "lfs": {"oid": "00ff", "size": 4}}]'
    server.add("api/models/o/r/tree/main", page, unavailable=1, retry_after=0.001)
    async with Sources(DownloadSettings(allow=("127.0.0.1",), hf_endpoint=server.url)) as sources:
        assert await sources.listing("hf://o/r") == [Listed("a.gguf", "huggingface://o/r/a.gguf", 4, "00ff")]
