"""Images that a request holds, or names by an address, as bytes."""

import asyncio
import binascii
import logging
from base64 import b64decode
from urllib.parse import unquote_to_bytes

from api.settings import Settings
from deployments.errors import ConfigInvalid, DownloadFailed, InvalidRequest

logger = logging.getLogger(__name__)

DOWNLOAD_S = 30.0
"""For a whole download."""

SIGNATURES: dict[str, tuple[tuple[int, bytes], ...]] = {
    "png": ((0, b"\x89PNG\r\n\x1a\n"),),
    "jpeg": ((0, b"\xff\xd8\xff"),),
    "webp": ((0, b"RIFF"), (8, b"WEBP")),
    "gif": ((0, b"GIF8"),),
}
"""Format → the bytes, and where they stand, that all its files have."""


async def load_image(source: str, param: str, settings: Settings) -> bytes:
    """An image given as http(s) URL, data URL or base64. Raises InvalidRequest at `param`."""
    scheme = source[:8].lower()
    if scheme.startswith(("http://", "https://")):
        return check_image(await _download(source, param, settings), param)
    content = _of_data_url(source, param) if scheme.startswith("data:") else _of_base64(source, param)
    return check_image(content, param)


def check_image(content: bytes, param: str) -> bytes:
    """The content, if it begins as an image does. Raises InvalidRequest at `param`.

    What is in it is for the replica to see; but a mistake as plain as this one needs no model.
    """
    for marks in SIGNATURES.values():
        if all(content.startswith(mark, place) for place, mark in marks):
            return content
    problem = "is empty" if not content else f"is not an image: {', '.join(SIGNATURES)} can be read"
    raise InvalidRequest(f"Invalid '{param}': it {problem}.").at(param)


def _of_data_url(url: str, param: str) -> bytes:
    """RFC 2397: `data:[type][;base64],data`."""
    head, comma, data = url.partition(",")
    if not comma:
        raise InvalidRequest(f"Invalid '{param}': a data URL has a comma before its data.").at(param)
    return _of_base64(data, param) if head.lower().endswith(";base64") else unquote_to_bytes(data)


def _of_base64(text: str, param: str) -> bytes:
    """Either alphabet; white space and a lack of padding do no harm."""
    plain = "".join(text.split()).rstrip("=").translate(_STANDARD)
    try:
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(
            f"Invalid '{param}': expected an http(s) URL, a data URL or base64, and this is none ({error})."
        ).at(param) from None


_STANDARD = str.maketrans("-_", "+/")


async def _download(url: str, param: str, settings: Settings) -> bytes:
    from gallery.network import Network  # with its packages, when the first client names a URL

    limit = settings.image_limit_mb << 20
    try:
        async with (
            asyncio.timeout(DOWNLOAD_S),
            Network(settings.gallery.downloads()) as network,
            network.get(url) as answer,
        ):
            return await answer.read(limit)
    except ConfigInvalid as error:
        # Its words are for the operator: they hold the address that a name inside the network has.
        logger.warning("an image was not fetched: %s", error.message)
        raise _not_fetched(
            param, "expected an http(s) URL of a host with a public address, or one of the setting download_allow"
        ) from error
    except DownloadFailed as error:
        raise _not_fetched(param, error.message) from error
    except TimeoutError:
        raise _not_fetched(param, f"it took longer than {DOWNLOAD_S:g} s") from None


def _not_fetched(param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': the image could not be fetched: {why}.").at(param)
