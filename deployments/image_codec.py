"""Encoded images to pixels and back. What comes in is a stranger's: its size is checked before it is decoded."""

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from deployments.errors import InvalidRequest
from deployments.image_header import MAX_PIXELS

READ = ("PNG", "JPEG", "WEBP", "GIF")
"""Formats that are decoded, a moving picture's first frame; Pillow knows many more, whose decoders nobody needs."""
BEST_QUALITY = 100
"""OpenAI's default `output_compression`."""

Image.MAX_IMAGE_PIXELS = MAX_PIXELS

Pixels = NDArray[np.uint8]


@dataclass(slots=True)
class Source:
    """A decoded image, the right way up."""

    image: Image.Image
    """RGB; what was transparent is as the file says, which is mostly black."""
    alpha: Image.Image | None
    """L, 255 where it is opaque. None: the file has no transparency."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.image.size

    def pixels(self, width: int, height: int) -> Pixels:
        """[height, width, 3], resized."""
        return np.asarray(self.image.resize((width, height), Image.Resampling.LANCZOS), np.uint8)

    def mask(self, width: int, height: int, *, is_alpha: bool) -> Pixels:
        """[height, width], 255 where the mask allows changes: where it is transparent, or where it is white."""
        if is_alpha and self.alpha is None:
            raise InvalidRequest("the mask has no transparent pixels: they say what may be changed").at("mask")
        chosen = ImageOps.invert(self.alpha) if is_alpha and self.alpha else self.image.convert("L")
        resized = chosen.resize((width, height), Image.Resampling.NEAREST)
        return np.where(np.asarray(resized) >= 128, np.uint8(255), np.uint8(0))


def decode(content: bytes, param: str) -> Source:
    """Read an image. Raises InvalidRequest at `param` for what is none, is too large, or is broken."""
    try:
        with Image.open(BytesIO(content), formats=READ) as image:
            _check_size(image.size, param)
            upright = ImageOps.exif_transpose(image)  # loads the pixels
            alpha = upright.convert("RGBA").getchannel("A") if upright.has_transparency_data else None
            return Source(upright.convert("RGB"), alpha)
    except InvalidRequest:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_large(param) from None
    except UnidentifiedImageError:
        raise InvalidRequest(f"{param} is not an image that can be read: {', '.join(READ)}").at(param) from None
    except Exception as error:  # decoders of broken files raise whatever they stumble over
        raise InvalidRequest(f"{param} is a broken image: {error}").at(param) from error


def encode(pixels: Pixels, file_format: Literal["png", "webp", "jpeg"], quality: int | None = None) -> bytes:
    """An image [height, width, 3] as a file; the same pixels give the same bytes. `quality` is of webp and jpeg."""
    file = BytesIO()
    options = {} if file_format == "png" else {"quality": BEST_QUALITY if quality is None else quality}
    Image.fromarray(pixels).save(file, file_format.upper(), **options)
    return file.getvalue()


def _check_size(size: tuple[int, int], param: str) -> None:
    """Before any pixel is decoded: a few bytes can say that they are gigabytes."""
    if size[0] * size[1] > MAX_PIXELS:
        raise _too_large(param, size)


def _too_large(param: str, size: tuple[int, int] | None = None) -> InvalidRequest:
    has = f"has {size[0]} x {size[1]} pixels" if size else "is too large"
    return InvalidRequest(f"{param} {has}; at most {MAX_PIXELS:,} pixels are read").at(param)
