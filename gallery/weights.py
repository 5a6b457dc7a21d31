"""A model out of nothing but the address of its weights: which files it takes, and which backend reads them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Protocol

from deployments.backends.registry import for_file
from deployments.errors import InvalidRequest
from gallery.archive import is_archive
from gallery.index import BaseConfig
from gallery.pickles import is_suspect, read_head
from gallery.request import File
from gallery.sources.base import Content, Listed, Whole
from gallery.sources.uri import Address, InRepository, local_name

QUANTIZATIONS = ("Q4_K_M", "Q4_K", "Q4_", "IQ4", "Q5_K_M", "Q5", "Q6", "Q8", "Q3", "IQ3", "Q2", "IQ2", "F16", "BF16")
"""Of a repository's GGUF files the first of these is taken: small, and hardly worse than the whole."""

PROJECTORS = ("F16", "BF16", "Q8", "F32")
"""Likewise of its multimodal projectors, `mmproj-….gguf`."""

_SPLIT = re.compile(r"-(\d{5})-of-(\d{5})(?=\.gguf$)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Layout:
    """A kind of repository, known by files it holds."""

    holds: frozenset[str]
    backend: str
    config: dict[str, Any]
    left_out: tuple[str, ...] = ()
    """Weights that this backend doesn't need, as patterns of `PurePath.match`; `/` is the repository."""


LAYOUTS = (
    Layout(frozenset({"model_index.json"}), "diffusers", {}, ("*.fp16.*", "*.non_ema.*", "/*.safetensors")),
    Layout(frozenset({"modules.json"}), "sentence-transformers", {"embeddings": True}),
    Layout(frozenset({"model.bin", "config.json"}), "faster-whisper", {}),
    Layout(frozenset({"config.json"}), "transformers", {"template": {"use_tokenizer_template": True}}),
)
"""The first whose files are all there."""

LEFT_OUT = (
    ".*", ".*/*", "*.md", "*.png", "*.jpg", "*.gif", "*.gguf", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.onnx",
    "*.onnx_data", "onnx/*", "openvino/*", "coreml/*", "original/*", "consolidated*", "training_args.bin",
)  # fmt: skip
"""Of a repository: what is for people, and the same weights for other engines."""


class Lookup(Protocol):
    """The part of `gallery.sources.Sources` that finds weights."""

    async def locate(self, uri: str) -> Content: ...

    async def listing(self, uri: str) -> Sequence[Listed]: ...


async def from_address(uri: str, sources: Lookup) -> BaseConfig:
    """The model at `uri`: a weights file, an archive, an image of a registry, or a Hugging Face repository.

    Raises InvalidRequest where there are no weights to be seen, and what `sources` raises.
    """
    address = Address.parse(uri)
    if address.scheme == "huggingface":
        place = InRepository.parse(address.uri)
        if not PurePosixPath(place.path).suffix:
            folder = PurePosixPath(place.path or place.repository).name
            return _from_repository(uri, folder, await sources.listing(uri))
    if address.scheme == "oci":
        return await _from_image(uri, sources)
    return _from_file(uri)


def _from_file(uri: str) -> BaseConfig:
    name = local_name(uri)
    if is_archive(name):
        stem = re.sub(r"(?:\.tar)?\.\w+$", "", name)
        return _model(stem, None, stem, [File(f"{stem}/", uri)])
    names = parts_of(name)
    files = [File(part, uri.replace(name, part)) for part in names]
    return _model(_stem(name), for_file(name), names[0], files)


def parts_of(name: str) -> list[str]:
    """Of weights that were split, `m-00001-of-00002.gguf`, all files; else the one."""
    split = _SPLIT.search(name)
    if split is None:
        return [name]
    count = int(split[2])
    return [name.replace(split[0], f"-{number:05}-of-{count:05}") for number in range(1, count + 1)]


async def _from_image(uri: str, sources: Lookup) -> BaseConfig:
    """One layer that is a file, or layers that are unpacked into a folder."""
    name = local_name(uri)
    content = await sources.locate(uri)
    if not isinstance(content, Whole):
        return _model(name, None, name, [File(f"{name}/", uri)])
    if (await read_head(content.remote)).startswith(b"GGUF"):
        return _model(name, for_file(f"{name}.gguf"), f"{name}.gguf", [File(f"{name}.gguf", uri)])
    return _model(name, None, name, [File(name, uri)])


def _from_repository(uri: str, name: str, listed: Sequence[Listed]) -> BaseConfig:
    if gguf := [file for file in listed if file.path.lower().endswith(".gguf")]:
        return _from_gguf(uri, gguf)
    paths = {file.path for file in listed}
    layout = next((layout for layout in LAYOUTS if layout.holds <= paths), None)
    if layout is None:
        raise InvalidRequest(
            f"{uri}: holds no weights that can be told by their names: neither a .gguf file nor a config.json; "
            "give the address of the file itself"
        )
    safe = any(path.endswith(".safetensors") for path in paths)
    left_out = (*LEFT_OUT, *layout.left_out)
    taken = [
        file
        for file in listed
        if not (safe and is_suspect(file.path))
        and not any(PurePosixPath("/", file.path).match(pattern) for pattern in left_out)
    ]
    files = [File(f"{name}/{file.path}", file.uri, file.sha256) for file in taken]
    return _model(name, layout.backend, name, files, layout.config)


def _from_gguf(uri: str, listed: Sequence[Listed]) -> BaseConfig:
    projectors = [file for file in listed if "mmproj" in _name(file).lower()]
    models = [file for file in listed if file not in projectors and "imatrix" not in _name(file).lower()]
    if not models:
        raise InvalidRequest(f"{uri}: holds no model, only {', '.join(_name(file) for file in listed)}")
    best = _preferred(models, QUANTIZATIONS)
    group = _SPLIT.sub("", best.path)
    files = sorted((file for file in models if _SPLIT.sub("", file.path) == group), key=lambda file: file.path)
    config: dict[str, Any] = {}
    if projectors:
        projector = _preferred(projectors, PROJECTORS)
        name = f"{_stem(_name(files[0]))}.mmproj.gguf"  # in many repositories it has the same name
        config = {"mmproj": name}
        extra = [File(name, projector.uri, projector.sha256)]
    else:
        extra = []
    own = [File(_name(file), file.uri, file.sha256) for file in files]
    return _model(_stem(own[0].filename), for_file(own[0].filename), own[0].filename, own + extra, config)


def _preferred(files: Sequence[Listed], order: Sequence[str]) -> Listed:
    """The one whose name has the earliest mark of `order`; of equals the smallest."""

    def rank(file: Listed) -> tuple[int, int, str]:
        marks = [i for i, mark in enumerate(order) if re.search(rf"(?<![A-Z0-9]){mark}", file.path.upper())]
        return (marks or [len(order)])[0], file.size, file.path

    return min(files, key=rank)


def _model(
    name: str, backend: str | None, weights: str, files: Sequence[File], config: dict[str, Any] | None = None
) -> BaseConfig:
    values: dict[str, Any] = {"backend": backend} if backend else {}
    values["parameters"] = {"model": weights}
    if weights.lower().endswith(".gguf"):
        values["template"] = {"use_tokenizer_template": True}
    return BaseConfig(name, {**values, **(config or {})}, tuple(files))


def _name(file: Listed) -> str:
    return PurePosixPath(file.path).name


def _stem(name: str) -> str:
    return PurePosixPath(_SPLIT.sub("", name)).stem
