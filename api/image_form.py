"""Multipart forms with an image, and perhaps a mask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from starlette.datastructures import UploadFile
from starlette.requests import Request

from api.media import check_image
from api.schemas.image import ImageForm
from api.uploads import MAX_PARTS, parse_fields
from deployments.errors import InvalidRequest, UnsupportedParameter

Form = TypeVar("Form", bound=ImageForm)

IMAGE_NAMES = ("image", "image[]")
"""OpenAI's clients send arrays under the second."""


@dataclass(frozen=True, slots=True)
class ImageUpload(Generic[Form]):
    params: Form
    image: bytes
    mask: bytes | None


async def read_image_form(request: Request, form: type[Form], *, needs_mask: bool = False) -> ImageUpload[Form]:
    """Raises InvalidRequest with the part at fault."""
    async with request.form(max_files=MAX_PARTS, max_fields=MAX_PARTS) as parts:
        sent = parts.multi_items()
        params = parse_fields(form, [(name, value) for name, value in sent if isinstance(value, str)], ("prompt",))
        images = _files(sent, IMAGE_NAMES)
        if len(images) > 1:
            raise UnsupportedParameter(f"One image can be changed at a time; this request has {len(images)}.").at(
                "image"
            )
        masks = _files(sent, ("mask",))
        return ImageUpload(
            params,
            await _content(images, "image"),
            await _content(masks, "mask") if masks or needs_mask else None,
        )


def _files(parts: Sequence[tuple[str, UploadFile | str]], names: Sequence[str]) -> list[UploadFile]:
    """Raises InvalidRequest for one that was sent as text."""
    found = [(name, value) for name, value in parts if name in names]
    for _, value in found:
        if isinstance(value, str):
            raise InvalidRequest(
                f"'{names[0]}' is a text field here; send it as a file, with a file name, in multipart/form-data."
            ).at(names[0])
    return [value for _, value in found if isinstance(value, UploadFile)]


async def _content(files: Sequence[UploadFile], param: str) -> bytes:
    if not files:
        raise InvalidRequest(f"Missing required parameter: '{param}', a file in multipart/form-data.").at(param)
    return check_image(await files[-1].read(), param)
