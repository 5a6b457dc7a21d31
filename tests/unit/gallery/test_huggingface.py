"""`huggingface://` against a stand-in for the hub, which the hub's own client takes for the hub."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.huggingface import HuggingFace
from tests.hub_server import TOKEN, HubServer

WEIGHTS = os.urandom(300_000)
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "sub folder/model@Q4_K_M.gguf": WEIGHTS,
    "onnx/model.bin": b"\x80weights",
}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as hub:
        hub.add("team/Tiny-1.5", FILES)
        yield hub


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with Network(DownloadSettings(allow=("127.0.0.1",))) as network:
        yield network


def source(network: Network, hub: HubServer, token: str = "") -> HuggingFace:
    return HuggingFace(network, DownloadSettings(hf_endpoint=f"{hub.url}/", hf_token=token))


async def fetched(network: Network, hub: HubServer, uri: str, token: str = "") -> bytes:
    remote = (await source(network, hub, token).locate(uri)).remote
    return b"".join([block async for block in remote.read(0, None)])


async def test_a_large_file_has_the_size_and_the_sha256_that_the_hub_says(network, hub) -> None:
    remote = (await source(network, hub).locate("huggingface://team/Tiny-1.5/sub folder/model%40Q4_K_M.gguf")).remote
    assert remote.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert remote.size == len(WEIGHTS)
    assert remote.ranges and remote.version == f"sha256:{remote.sha256}"
    assert b"".join([block async for block in remote.read(299_990, None)]) == WEIGHTS[299_990:]


async def test_a_small_file_has_no_sha256(network, hub) -> None:
    remote = (await source(network, hub).locate("huggingface://team/Tiny-1.5/config.json")).remote
    assert remote.sha256 == ""
    assert b"".join([block async for block in remote.read(0, None)]) == FILES["config.json"]


@pytest.mark.parametrize(
    "uri",
    [
        "huggingface://team/Tiny-1.5/onnx/model.bin@refs/pr/1",
        "huggingface://team/Tiny-1.5@refs/pr/1/onnx/model.bin",
        "huggingface://team/Tiny-1.5@refs%2Fpr%2F1/onnx/model.bin",
    ],
)
async def test_the_revision_may_stand_behind_the_repository_or_the_file(network, hub, uri) -> None:
    hub.add("team/Tiny-1.5", {"onnx/model.bin": b"of the pull request"}, revision="refs/pr/1")
    assert await fetched(network, hub, uri) == b"of the pull request"


async def test_a_checksum_said_by_another_host_does_not_count(network, hub) -> None:
    _, stored = next(iter(hub.storage.files.items()))
    elsewhere = hub.storage.add("elsewhere", redirect=hub.storage.add("file", b"x"))
    hub.storage.files["/elsewhere"].headers = {"X-Linked-Etag": f'"{"0" * 64}"'}
    for file in hub.storage.files.values():
        if file is stored:
            file.redirect, file.headers = elsewhere, {"X-Linked-Etag": f'"{"1" * 64}"'}
    remote = (await source(network, hub).locate("huggingface://team/Tiny-1.5/sub folder/model%40Q4_K_M.gguf")).remote
    assert remote.sha256 == hashlib.sha256(WEIGHTS).hexdigest()


async def test_the_token_goes_to_the_hub_and_not_to_its_storage(network, hub) -> None:
    hub.add("team/private", {"model.gguf": WEIGHTS}, private=True)
    assert await fetched(network, hub, "huggingface://team/private/model.gguf", TOKEN) == WEIGHTS
    assert set(hub.authorizations) == {f"Bearer {TOKEN}"}
    assert hub.storage.requests
    assert all("authorization" not in request.headers for request in hub.storage.requests)


@pytest.mark.parametrize(
    ("path", "token", "reason"),
    [
        ("team/Tiny-1.5/no.gguf", "", "the repository has no such file"),
        ("team/Tiny-1.5@dev/config.json", "", "the repository has no such revision"),
        ("team/none/config.json", "", "no such repository, or a private one; for that, set HF_TOKEN"),
        ("team/none/config.json", TOKEN, "no such repository$"),
        ("team/gated/config.json", "", "gated: accept its terms on its page and set HF_TOKEN"),
        ("team/gated/config.json", TOKEN, "gated: accept its terms on its page, with the account"),
        ("team/Tiny-1.5/config.json", "hf_wrong", "refuses the token in HF_TOKEN: Invalid credentials"),
    ],
)
async def test_what_the_hub_refuses_is_explained(network, hub, path, token, reason) -> None:
    hub.add("team/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(DownloadFailed, match=reason) as raised:
        await source(network, hub, token).locate(f"huggingface://{path}")
    assert raised.value.message.startswith(f"huggingface://{path}: ")
    assert not token or token not in raised.value.message


async def test_what_the_hub_refuses_to_list_is_explained(network, hub) -> None:
    hub.add("team/gated", {"config.json": b"{}"}, gated=True)
    with pytest.raises(DownloadFailed, match="huggingface://team/gated: the model is gated"):
        await source(network, hub).listing("huggingface://team/gated")


@pytest.mark.parametrize(
    "uri",
    [
        "huggingface://team",
        "huggingface://team/Tiny-1.5",
        "huggingface://team/Tiny-1.5/../../api/whoami-v2",
        "huggingface://team/Tiny-1.5/%2e%2e/x",
        "huggingface://../Tiny-1.5/config.json",
        "huggingface://team/Tiny-1.5//config.json",
    ],
)
async def test_what_names_no_file_of_a_repository_is_refused_without_a_request(network, hub, uri) -> None:
    with pytest.raises(ConfigInvalid, match="huggingface://"):
        await source(network, hub).locate(uri)
    assert hub.authorizations == []


async def test_a_listing_goes_through_all_pages_and_its_uris_can_be_fetched(network, hub) -> None:
    hub.page_size = 2
    listed = await source(network, hub).listing("huggingface://team/Tiny-1.5")
    assert {file.path: (file.size, file.sha256) for file in listed} == {
        "config.json": (len(FILES["config.json"]), ""),
        "sub folder/model@Q4_K_M.gguf": (len(WEIGHTS), hashlib.sha256(WEIGHTS).hexdigest()),
        "onnx/model.bin": (len(FILES["onnx/model.bin"]), hashlib.sha256(FILES["onnx/model.bin"]).hexdigest()),
    }
    for file in listed:
        assert await fetched(network, hub, file.uri) == FILES[file.path]


async def test_a_folder_of_a_revision_is_listed_in_that_revision(network, hub) -> None:
    hub.add("team/Tiny-1.5", {"a/b/c.gguf": WEIGHTS, "d.json": b"{}"}, revision="v 1")
    listed = await source(network, hub).listing("huggingface://team/Tiny-1.5@v%201/a")
    assert [(file.path, file.uri) for file in listed] == [
        ("a/b/c.gguf", "huggingface://team/Tiny-1.5@v%201/a/b/c.gguf"),
    ]
    assert await fetched(network, hub, listed[0].uri) == WEIGHTS


async def test_a_listing_does_not_go_on_at_another_host(network, hub) -> None:
    hub.page_size, hub.next_page_host = 1, hub.storage.url
    with pytest.raises(DownloadFailed, match="goes on at another host"):
        await source(network, hub, TOKEN).listing("huggingface://team/Tiny-1.5")
    assert hub.storage.requests == []


CLIENT = """
import json, sys
from huggingface_hub import HfApi, errors
api = HfApi(endpoint=sys.argv[1], token=False)
paths = {f.path: (f.size, f.lfs and f.lfs.sha256) for f in api.list_repo_tree("team/Tiny-1.5", recursive=True)
         if hasattr(f, "size")}
files = {path: open(api.hf_hub_download("team/Tiny-1.5", path, cache_dir=sys.argv[2]), "rb").read().hex()
         for path in paths}
raised = []
for repository, path, revision in [("team/Tiny-1.5", "no", "main"), ("team/Tiny-1.5", "no", "x"), ("a/b", "c", "main"),
                                   ("team/gated", "c", "main")]:
    try:
        api.hf_hub_download(repository, path, revision=revision, cache_dir=sys.argv[2])
    except Exception as error:
        raised.append(type(error).__name__)
print(json.dumps({"paths": paths, "files": files, "raised": raised}))
"""


@pytest.mark.skipif(find_spec("huggingface_hub") is None, reason="huggingface_hub comes with make install-transformers")
def test_the_hubs_own_client_takes_the_stand_in_for_the_hub(hub, tmp_path: Path) -> None:
    hub.page_size = 2
    hub.add("team/gated", {"c": b""}, gated=True)
    environment = {
        **os.environ,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path),
    }
    client = subprocess.run(
        [sys.executable, "-c", CLIENT, hub.url, tmp_path / "cache"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert client.returncode == 0, client.stderr
    said = json.loads(client.stdout)
    assert {path: bytes.fromhex(content) for path, content in said["files"].items()} == FILES
    assert said["paths"]["onnx/model.bin"][1] == hashlib.sha256(FILES["onnx/model.bin"]).hexdigest()
    assert said["raised"] == [
        "RemoteEntryNotFoundError",
        "RevisionNotFoundError",
        "RepositoryNotFoundError",
        "GatedRepoError",
    ]
