"""`oci://[registry/]repository[:tag|@digest]` and `ollama://model[:tag]`: models in container registries."""

import platform
from typing import Any

from deployments.errors import DownloadFailed
from gallery.network import Network
from gallery.settings import DownloadSettings
from gallery.sources.base import Content, Layers, Whole
from gallery.sources.registry import Blob, Reference, Registry

DOCKER, DOCKER_HOST = "docker.io", "registry-1.docker.io"
OLLAMA = "registry.ollama.ai"

WEIGHTS = ("application/vnd.ollama.image.model", "application/vnd.docker.ai.gguf.v3")
"""Layers that are a model's weights, beside others with its template and licence: Ollama's, Docker Model Runner's."""
TARS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/x-tar",
    "application/x-gtar",
    "application/tar",
)
"""Layers to unpack; `+gzip` or `.gzip` may follow."""

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_INDEX_DEPTH = 3

Json = dict[str, Any]


class OCI:
    """Images and artifacts: one file, or a tree of files in layers.

    Registries are reached by HTTPS. One that `allow` (`MANTA_DOWNLOAD_ALLOW`) lists by its own host, and that has a
    port, may speak plain HTTP too: HTTPS is tried first, as Docker does it with its insecure registries.
    """

    registry = DOCKER

    def __init__(self, network: Network, settings: DownloadSettings) -> None:
        self._network = network
        self._allowed = set(settings.allow)
        self._registries: dict[str, Registry] = {}

    async def locate(self, uri: str) -> Content:
        reference = Reference.parse(uri, self.registry)
        registry = self._registry(reference.registry)
        manifest = await self._manifest(uri, registry, reference)
        layers: list[Json] = manifest.get("layers") or []
        weights = [layer for layer in layers if layer["mediaType"] in WEIGHTS]
        others = [layer for layer in layers if not layer["mediaType"].startswith(TARS)]

        async def blob(layer: Json) -> Blob:
            return await registry.blob(reference.repository, layer["digest"], layer["size"])

        if len(weights) == 1:
            return Whole(await blob(weights[0]))
        if len(layers) == len(others) == 1:
            return Whole(await blob(others[0]))
        if layers and not others:
            return Layers(tuple([await blob(layer) for layer in layers]))
        kinds = ", ".join(sorted({layer["mediaType"] for layer in layers})) or "none"
        raise DownloadFailed(f"{uri}: expected one layer with weights, or layers that are tars; it has {kinds}")

    async def _manifest(self, uri: str, registry: Registry, reference: Reference) -> Json:
        """Of the image; of an index the one for this machine."""
        version = reference.version
        for _ in range(_INDEX_DEPTH):
            manifest = await registry.manifest(reference.repository, version)
            if "manifests" not in manifest:
                return manifest
            version = _for_this_machine(uri, manifest["manifests"])["digest"]
        raise DownloadFailed(f"{uri}: an index of indexes of indexes")

    def _registry(self, host: str) -> Registry:
        if host not in self._registries:
            name, _, port = host.rpartition(":")
            plain = bool(port and name) and not self._allowed.isdisjoint({host, name, name.strip("[]")})
            address = DOCKER_HOST if host in (DOCKER, f"index.{DOCKER}") else host
            self._registries[host] = Registry(self._network, address, may_be_plain=plain)
        return self._registries[host]


class Ollama(OCI):
    """Models of Ollama's library, and of other registries that hold such: `ollama://hf.co/owner/repository:Q4_K_M`."""

    registry = OLLAMA


def _for_this_machine(uri: str, manifests: list[Json]) -> Json:
    """The manifest for Linux on this processor; the only one, where there is no choice."""
    machine = _ARCHITECTURES.get(platform.machine(), platform.machine())
    platforms = [(manifest.get("platform") or {}, manifest) for manifest in manifests]
    if fitting := [m for p, m in platforms if p.get("os") == "linux" and p.get("architecture") == machine]:
        return fitting[0]
    # BuildKit puts attestations beside the images, for a platform called "unknown".
    if len(images := [m for p, m in platforms if p.get("os", "") != "unknown"]) == 1:
        return images[0]
    offered = ", ".join(sorted(f"{p.get('os')}/{p.get('architecture')}" for p, _ in platforms)) or "nothing"
    raise DownloadFailed(f"{uri}: nothing for linux/{machine}; it has {offered}")
