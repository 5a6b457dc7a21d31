"""Images and sounds that a request holds, or names by an address, as bytes."""

import asyncio
import binascii
import logging
from base64 import b64decode
from urllib.parse import unquote_to_bytes

from api.settings import Settings
from deployments.errors import ConfigInvalid, DownloadFailed, InvalidRequest
from deployments.image_header import MAX_PIXELS, SIGNATURES, image_format, image_size

logger = logging.getLogger(__name__)

DOWNLOAD_S = 30.0
"""For a whole download."""
LARGE = 2**20
"""Characters of base64 that are decoded in a thread: a megabyte takes some milliseconds."""


async def load_image(source: str, param: str, settings: Settings) -> bytes:
    """An image given as http(s) URL, data URL or base64. Raises InvalidRequest at `param`."""
    return check_image(await _load(source, param, settings, "image"), param)


async def load_audio(source: str, param: str, settings: Settings) -> bytes:
    """A sound given as http(s) URL, data URL or base64. Raises InvalidRequest at `param`.

    The formats are too many to be told by their first bytes: the model says whether it can read it.
    """
    if content := await _load(source, param, settings, "audio"):
        return content
    raise InvalidRequest(f"Invalid '{param}': it is empty.").at(param)


def check_image(content: bytes, param: str) -> bytes:
    """The content, if it begins as an image of a sensible size does. Raises InvalidRequest at `param`.

    What is in it is for the replica to see; but mistakes as plain as these need no model.
    """
    if not content:
        raise InvalidRequest(f"Invalid '{param}': it is empty.").at(param)
    if not image_format(content):
        raise InvalidRequest(f"Invalid '{param}': it is not an image: {', '.join(SIGNATURES)} can be read.").at(param)
    if not (size := image_size(content)):
        raise InvalidRequest(f"Invalid '{param}': it is a broken image.").at(param)
    width, height = size
    if width * height > MAX_PIXELS:
        raise InvalidRequest(
            f"Invalid '{param}': it is too large: {width} x {height} pixels; at most {MAX_PIXELS:,} are read."
        ).at(param)
    return content


async def _load(source: str, param: str, settings: Settings, what: str) -> bytes:
    scheme = source[:8].lower()
    if scheme.startswith(("http://", "https://")):
        return await _download(source, param, settings, what)
    decode = _of_data_url if scheme.startswith("data:") else _of_base64
    return decode(source, param) if len(source) < LARGE else await asyncio.to_thread(decode, source, param)


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


async def _download(url: str, param: str, settings: Settings, what: str) -> bytes:
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
        logger.warning("what a request named was not fetched: %s", error.message)
        raise _not_fetched(
            what,
            param,
            "expected an http(s) URL of a host with a public address, or one of the setting download_allow",
        ) from error
    except DownloadFailed as error:
        raise _not_fetched(what, param, error.message) from error
    except TimeoutError:
        raise _not_fetched(what, param, f"it took longer than {DOWNLOAD_S:g} s") from None


def _not_fetched(what: str, param: str, why: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid '{param}': the {what} could not be fetched: {why}.").at(param)
