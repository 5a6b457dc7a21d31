"""How a file's address is written: our schemes, LocalAI's spellings of them, pages copied from a browser."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Self
from urllib.parse import quote, unquote

from deployments.errors import ConfigInvalid

Rewrites = tuple[tuple[re.Pattern[str], str], ...]

_HUB = r"https?://(?:www\.)?(?:hf\.co|huggingface\.co)/(?!datasets/|spaces/|api/)([^/?#]+/[^/?#@]+)"
_REVISION = r"(?:refs/(?:pr|convert)/)?[^/?#@]+"
"""Of a Hugging Face repository; those under refs/ have slashes, others write theirs as %2F."""
_END = r"/?(?:[?#].*)?"

_SPELLINGS: Rewrites = (
    (re.compile(r"github:(?!//)(.+)"), r"github://\1"),
    (re.compile(r"hf://(.+)"), r"huggingface://\1"),
    (re.compile(r"((?:hf\.co|huggingface\.co)/.+)"), r"https://\1"),
    (re.compile(r"((?:ghcr\.io|quay\.io|docker\.io)/.+)"), r"oci://\1"),
    (re.compile(r"(registry\.ollama\.ai/.+)"), r"ollama://\1"),
)
"""Ways to write the same address."""

_PAGES: Rewrites = (
    (re.compile(rf"{_HUB}/(?:resolve|blob|raw)/({_REVISION})/([^?#]+?){_END}"), r"huggingface://\1@\2/\3"),
    (re.compile(rf"{_HUB}/tree/({_REVISION})(/[^?#]+?)?{_END}"), r"huggingface://\1@\2\3"),
    (re.compile(rf"{_HUB}((?:@{_REVISION})?(?:/[^?#]+?)?){_END}"), r"huggingface://\1\2"),
    (re.compile(r"https?://github\.com/([^/?#]+/[^/?#]+)/blob/([^/?#]+)/([^?#]+)(?:[?#].*)?"), r"github://\1/\3@\2"),
)
"""Pages of the hubs that show a file or a folder, and what they show."""


@dataclass(frozen=True, slots=True)
class Address:
    """A URI in the one spelling that the sources read."""

    uri: str
    scheme: str
    written: str
    """Scheme that the user wrote: `https` where a page of Hugging Face has become `huggingface`."""

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Raises ConfigInvalid where there is no scheme."""
        spelled = _rewritten(uri.strip(), _SPELLINGS)
        canonical = _rewritten(spelled, _PAGES)
        scheme, separator, rest = canonical.partition("://")
        if not separator or not rest or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
            raise ConfigInvalid(f"{uri or 'an empty address'}: expected <scheme>://…")
        written = spelled.partition("://")[0].lower()
        return cls(f"{scheme.lower()}://{rest}", scheme.lower(), written)


@dataclass(frozen=True, slots=True)
class InRepository:
    """A file or folder in a repository of a hub: `owner/name/path@revision` or `owner/name@revision/path`."""

    repository: str
    path: str
    """Decoded. Empty: all of the repository."""
    revision: str
    """Decoded. Empty: the default branch."""

    @classmethod
    def parse(cls, uri: str) -> Self:
        """Raises ConfigInvalid where that isn't its form, or the path has empty elements, `.` or `..`."""
        scheme, _, rest = uri.partition("://")
        match = re.fullmatch(rf"([\w.-]+/[\w.-]+)(?:@({_REVISION}))?(?:/(.+?))?/?", rest)
        if match is None:
            raise ConfigInvalid(f"{uri}: expected {scheme}://owner/repository/path, and @revision where wanted")
        repository, revision, path = match[1], match[2] or "", match[3] or ""
        if not revision and "@" in path:
            path, _, revision = path.rpartition("@")
        if not {*repository.split("/"), *(unquote(path).split("/") if path else ())}.isdisjoint({"", ".", ".."}):
            raise ConfigInvalid(f"{uri}: leads out of the repository")
        return cls(repository, unquote(path), unquote(revision))

    @property
    def quoted_path(self) -> str:
        """As it stands in a URL."""
        return quote(self.path)


def local_name(uri: str) -> str:
    """The file (or folder) name for what `uri` names. Raises ConfigInvalid where it names none.

    The last element of the path, without a revision. Images have their whole name, as in LocalAI:
    `ollama://gemma:2b` is `gemma__2b.gguf`, `oci://ghcr.io/team/model:1` is `ghcr.io__team__model__1`.
    """
    address = Address.parse(uri)
    rest = address.uri.partition("://")[2]
    match address.scheme:
        case "ollama":
            name = f"{_image_name(rest)}.gguf"
        case "oci":
            name = _image_name(rest)
        case "huggingface" | "github":
            place = InRepository.parse(address.uri)
            name = PurePosixPath(place.path or place.repository).name
        case _:
            path = re.split(r"[?#]", rest.partition("/")[2])[0]
            name = PurePosixPath(unquote(path)).name
    if not name or name.startswith(".") or "\0" in name:
        raise ConfigInvalid(f"{uri}: names no file")
    return name


def _image_name(reference: str) -> str:
    return re.sub(r"[/:@]+", "__", reference.strip("/"))


def _rewritten(uri: str, table: Rewrites) -> str:
    """By the first row that fits."""
    return next((match.expand(to) for pattern, to in table if (match := pattern.fullmatch(uri))), uri)
