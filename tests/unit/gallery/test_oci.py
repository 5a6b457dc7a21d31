"""`oci://` and `ollama://` against a registry of our own and, where it is installed, Docker's."""

import asyncio
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from deployments.errors import ConfigInvalid, DownloadFailed
from gallery.errors import Interrupted
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.base import Content, Layers, Remote, Whole
from gallery.sources.oci import OCI, WEIGHTS, Ollama
from gallery.sources.registry import Reference
from tests.file_server import FileServer
from tests.registry_server import MANIFEST, RegistryServer

GGUF = b"GGUF" + os.urandom(200_000)
OLLAMA_LAYERS = [
    ("application/vnd.ollama.image.license", b"MIT"),
    ("application/vnd.ollama.image.model", GGUF),
    ("application/vnd.ollama.image.template", b"{{ .Prompt }}"),
]
LOOPBACK = DownloadSettings(allow=("127.0.0.1",))


@pytest.fixture
async def network() -> AsyncIterator[Network]:
    async with Network(LOOPBACK) as network:
        yield network


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as registry:
        yield registry


@pytest.fixture
def guarded() -> Iterator[RegistryServer]:
    with RegistryServer(tokens=True) as registry:
        yield registry


def layer(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text.encode()))
    return buffer.getvalue()


async def content(remote: Remote, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([block async for block in remote.read(start, end)])


def whole(found: Content) -> Remote:
    assert isinstance(found, Whole)
    return found.remote


async def test_of_an_ollama_model_the_layer_with_the_weights(network, registry) -> None:
    registry.push("team/tiny", "q4", OLLAMA_LAYERS)
    remote = whole(await Ollama(network, LOOPBACK).locate(f"ollama://{registry.host}/team/tiny:q4"))
    assert remote.size == len(GGUF)
    assert remote.sha256 == hashlib.sha256(GGUF).hexdigest()
    assert remote.ranges and remote.version
    assert await content(remote) == GGUF
    assert await content(remote, 100, 200) == GGUF[100:200]


@pytest.mark.parametrize("kind", [*WEIGHTS, "application/octet-stream", "application/vnd.x.gguf"])
async def test_of_an_artifact_its_one_file(network, registry, kind) -> None:
    digest = registry.push("team/artifact", "latest", [(kind, GGUF)])
    oci = OCI(network, LOOPBACK)
    assert await content(whole(await oci.locate(f"oci://{registry.host}/team/artifact"))) == GGUF
    assert await content(whole(await oci.locate(f"oci://{registry.host}/team/artifact@{digest}"))) == GGUF


async def test_of_an_image_all_its_layers_in_order(network, registry) -> None:
    tars = [layer(a="1"), layer(b="2")]
    kinds = ["application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"]
    registry.push("team/image", "1", list(zip(kinds, tars, strict=True)))
    found = await OCI(network, LOOPBACK).locate(f"oci://{registry.host}/team/image:1")
    assert isinstance(found, Layers)
    assert [await content(remote) for remote in found.remotes] == tars


async def test_of_an_index_what_is_for_this_machine(network, registry, monkeypatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    kind = "application/octet-stream"
    amd, arm = (registry.push("team/multi", name, [(kind, name.encode())]) for name in ("amd", "arm"))
    platforms = {"linux/amd64": amd, "windows/arm64": amd, "linux/arm64": arm, "unknown/unknown": amd}
    registry.push_index("team/multi", "both", platforms)
    registry.push_index("team/multi", "amd-only", {"linux/amd64": amd, "linux/s390x": amd})
    registry.push_index("team/multi", "only", {"linux/s390x": amd, "unknown/unknown": arm})
    oci = OCI(network, LOOPBACK)
    assert await content(whole(await oci.locate(f"oci://{registry.host}/team/multi:both"))) == b"arm"
    assert await content(whole(await oci.locate(f"oci://{registry.host}/team/multi:only"))) == b"amd"
    with pytest.raises(DownloadFailed, match=r"nothing for linux/arm64; it has linux/amd64, linux/s390x"):
        await oci.locate(f"oci://{registry.host}/team/multi:amd-only")


async def test_a_token_is_fetched_once_for_each_repository(network, guarded) -> None:
    guarded.push("team/a", "latest", OLLAMA_LAYERS)
    guarded.push("team/b", "latest", OLLAMA_LAYERS)
    ollama = Ollama(network, LOOPBACK)
    for name in ("a", "a", "b"):
        assert await content(whole(await ollama.locate(f"ollama://{guarded.host}/team/{name}"))) == GGUF
    assert sorted(repository for repository, _ in guarded.tokens_given.values()) == ["team/a", "team/b"]


async def test_a_read_long_after_the_look_up_has_a_new_token(network, guarded, monkeypatch) -> None:
    guarded.push("team/a", "latest", OLLAMA_LAYERS)
    remote = whole(await Ollama(network, LOOPBACK).locate(f"ollama://{guarded.host}/team/a"))
    later = time.monotonic() + 1000
    monkeypatch.setattr("time.monotonic", lambda: later)
    assert await content(remote, 10, None) == GGUF[10:]
    assert len(guarded.tokens_given) == 2


async def test_the_token_does_not_go_to_where_the_registry_stores_its_blobs(network, guarded) -> None:
    digest = f"sha256:{hashlib.sha256(GGUF).hexdigest()}"
    with FileServer() as storage:
        storage.add(digest, GGUF)
        guarded.blob_redirect = storage.url
        guarded.push("team/a", "latest", OLLAMA_LAYERS)
        remote = whole(await Ollama(network, LOOPBACK).locate(f"ollama://{guarded.host}/team/a"))
        assert await content(remote) == GGUF
        assert all("authorization" not in request.headers for request in storage.requests)
        assert len(storage.requests) == 2


async def test_a_registry_that_wants_a_password_is_named(network, registry) -> None:
    registry.push("team/a", "latest", OLLAMA_LAYERS)
    registry.basic = True
    with pytest.raises(DownloadFailed, match=r"team/a.*wants a login"):
        await OCI(network, LOOPBACK).locate(f"oci://{registry.host}/team/a")


async def test_what_is_not_there_is_named(network, registry) -> None:
    with pytest.raises(DownloadFailed, match=r"team/none/manifests/v1: 404 Not Found"):
        await OCI(network, LOOPBACK).locate(f"oci://{registry.host}/team/none:v1")


async def test_a_manifest_that_is_not_the_one_of_its_digest_is_refused(network, registry) -> None:
    digest = registry.push("team/a", "latest", OLLAMA_LAYERS)
    registry.manifests["team/a", digest] = MANIFEST, b'{"schemaVersion": 2, "layers": []}'
    with pytest.raises(DownloadFailed, match="is not the one of sha256:"):
        await OCI(network, LOOPBACK).locate(f"oci://{registry.host}/team/a@{digest}")


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([], "it has none"),
        ([("application/a", b"1"), ("application/b", b"2")], "it has application/a, application/b"),
        ([("application/x-tar", b"1"), ("application/b", b"2")], "it has application/b, application/x-tar"),
    ],
)
async def test_an_image_that_is_no_model_is_said_to_be_none(network, registry, layers, reason) -> None:
    registry.push("team/odd", "latest", layers)
    with pytest.raises(DownloadFailed, match=reason):
        await OCI(network, LOOPBACK).locate(f"oci://{registry.host}/team/odd")


async def test_plain_http_is_not_tried_where_the_host_itself_is_not_listed(registry) -> None:
    registry.push("team/a", "latest", OLLAMA_LAYERS)
    settings = DownloadSettings(allow=("127.0.0.0/8",))
    async with Network(settings) as network:
        with pytest.raises(DownloadFailed, match=f"https://{registry.host}.*no TLS connection"):
            await OCI(network, settings).locate(f"oci://{registry.host}/team/a")
    assert registry.requests == []


async def test_a_registry_that_was_down_is_asked_by_https_again(network) -> None:
    with RegistryServer() as registry:
        registry.push("team/a", "latest", OLLAMA_LAYERS)
        host = registry.host
    oci = OCI(network, LOOPBACK)
    with pytest.raises(Interrupted, match=f"https://{host}.*no connection"):
        await oci.locate(f"oci://{host}/team/a")
    with pytest.raises(Interrupted, match=f"https://{host}.*no connection"):
        await oci.locate(f"oci://{host}/team/a")


async def test_models_looked_up_side_by_side_find_out_together_that_there_is_no_tls(network, registry) -> None:
    registry.push("team/a", "latest", OLLAMA_LAYERS)
    oci = OCI(network, LOOPBACK)
    found = await asyncio.gather(*(oci.locate(f"oci://{registry.host}/team/a") for _ in range(5)))
    assert {whole(content).size for content in found} == {len(GGUF)}
    assert registry.requests.count("/v2/") == 1


@pytest.mark.parametrize(
    ("uri", "default", "reference"),
    [
        ("ollama://gemma:2b", "o", Reference("o", "library/gemma", "2b")),
        ("ollama://gemma", "o", Reference("o", "library/gemma", "latest")),
        ("ollama://team/gemma:2b", "o", Reference("o", "team/gemma", "2b")),
        ("ollama://hf.co/Team/Gemma-GGUF:Q4_K_M", "o", Reference("hf.co", "Team/Gemma-GGUF", "Q4_K_M")),
        ("oci://docker.io/busybox", "docker.io", Reference("docker.io", "library/busybox", "latest")),
        ("oci://quay.io/a/b.c/d__e:1.0", "docker.io", Reference("quay.io", "a/b.c/d__e", "1.0")),
        ("oci://localhost/a", "docker.io", Reference("localhost", "a", "latest")),
        ("oci://[::1]:5000/a:1", "docker.io", Reference("[::1]:5000", "a", "1")),
        (f"oci://h:5000/a:1@sha256:{'0' * 64}", "docker.io", Reference("h:5000", "a", f"sha256:{'0' * 64}")),
    ],
)
def test_references_are_read_as_docker_reads_them(uri, default, reference) -> None:
    assert Reference.parse(uri, default) == reference


@pytest.mark.parametrize("uri", ["oci://", "oci://a/../b", "oci://a b", "oci://a@sha256:1", "oci://a:b:c", "oci://a/"])
def test_what_is_no_reference_is_refused(uri) -> None:
    with pytest.raises(ConfigInvalid, match=r"expected oci://\[registry/\]repository"):
        Reference.parse(uri, "docker.io")


# ---- Docker's own registry -------------------------------------------------------------------------------------------

BINARY = shutil.which("docker-registry")


@pytest.fixture
def docker_registry(tmp_path: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{free.getsockname()[1]}"
    config = {
        "version": 0.1,
        "log": {"level": "error", "accesslog": {"disabled": True}},
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": host},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(config))
    assert BINARY is not None
    process = subprocess.Popen(
        [BINARY, "serve", tmp_path / "registry.yml"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _until_it_answers(f"http://{host}/v2/", process)
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=10)


def _until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, trust_env=False).raise_for_status()
        except httpx.TransportError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"{url} does not answer")


def push(host: str, repository: str, tag: str, layers: list[tuple[str, bytes]]) -> None:
    """As `docker push` does it, blob by blob, then the manifest."""
    with httpx.Client(base_url=f"http://{host}/v2/{repository}/", trust_env=False) as client:
        described = []
        for kind, blob in [("application/vnd.oci.image.config.v1+json", b"{}"), *layers]:
            digest = f"sha256:{hashlib.sha256(blob).hexdigest()}"
            at = client.post("blobs/uploads/").raise_for_status().headers["Location"]
            client.put(at, params={**httpx.URL(at).params, "digest": digest}, content=blob).raise_for_status()
            described.append({"mediaType": kind, "digest": digest, "size": len(blob)})
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": described[0], "layers": described[1:]}
        headers = {"Content-Type": MANIFEST}
        client.put(f"manifests/{tag}", content=json.dumps(manifest), headers=headers).raise_for_status()


@pytest.mark.skipif(BINARY is None, reason="NOT TESTED against Docker's registry: apt-get install docker-registry")
async def test_models_in_dockers_own_registry(network, docker_registry) -> None:
    tars = [layer(a="1"), layer(b="2")]
    push(docker_registry, "team/model", "q4", OLLAMA_LAYERS)
    push(docker_registry, "team/image", "1", [("application/vnd.oci.image.layer.v1.tar+gzip", tar) for tar in tars])
    remote = whole(await Ollama(network, LOOPBACK).locate(f"ollama://{docker_registry}/team/model:q4"))
    assert (remote.size, remote.sha256, remote.ranges) == (len(GGUF), hashlib.sha256(GGUF).hexdigest(), True)
    assert await content(remote) == GGUF
    assert await content(remote, 1000, 2000) == GGUF[1000:2000]
    image = await OCI(network, LOOPBACK).locate(f"oci://{docker_registry}/team/image:1")
    assert isinstance(image, Layers)
    assert [await content(remote) for remote in image.remotes] == tars
    with pytest.raises(DownloadFailed, match="404 Not Found"):
        await OCI(network, LOOPBACK).locate(f"oci://{docker_registry}/team/model:q8")
