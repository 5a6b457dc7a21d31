"""Images that were answered by URL: kept for a while, under names that nobody can guess."""

import secrets
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from api.base_url import base_url
from api.blob_response import BlobResponse
from deployments.errors import ImageNotFound
from gallery.blobs import Blob, Blobs

router = APIRouter(tags=["Images"])

FOLDER = "/generated-images"
YEAR_S = 365 * 24 * 3600

_SUFFIXES = ((b"\x89PNG", ".png"), (b"RIFF", ".webp"), (b"\xff\xd8", ".jpg"))
"""What an image of ours begins with → how its name ends."""


@dataclass(frozen=True, slots=True)
class ImageShelf:
    """Where one request's images go."""

    blobs: Blobs
    base_url: str

    async def keep(self, image: bytes) -> str:
        """The URL under which the image can be had. Raises StorageFailed and InsufficientStorage."""
        suffix = next(suffix for start, suffix in _SUFFIXES if image.startswith(start))
        name = f"{secrets.token_hex(16)}{suffix}"
        await self.blobs.put(name, image)
        return f"{self.base_url}{FOLDER}/{name}"


async def _shelf(request: Request) -> ImageShelf:
    state = request.app.state
    return ImageShelf(state.generated_images, base_url(request, state.settings))


KeepImages = Annotated[ImageShelf, Depends(_shelf)]


@router.get(FOLDER + "/{name}", response_class=Response, responses={200: {"content": {"image/png": {}}}})
async def retrieve_generated_image(name: str, request: Request) -> Response:
    """An image that was answered by URL."""
    blob, headers = await _found(name, request)
    return BlobResponse(blob, headers)


@router.head(FOLDER + "/{name}", include_in_schema=False)
async def head_generated_image(name: str, request: Request) -> Response:
    """What GET would answer, without the image."""
    blob, headers = await _found(name, request)
    return Response(headers=headers | {"Content-Length": str(blob.size)}, media_type=blob.media_type)


async def _found(name: str, request: Request) -> tuple[Blob, dict[str, str]]:
    """Raises ImageNotFound."""
    blobs: Blobs = request.app.state.generated_images
    blob = await blobs.find(name)
    if blob is None:
        raise ImageNotFound(f"There is no generated image {name[:64]!r}, or it was too old to be kept.").at("name")
    left = int(blobs.ttl - blob.age) if blobs.ttl else YEAR_S
    return blob, {
        "Cache-Control": f"private, max-age={max(0, left)}, immutable",
        "X-Content-Type-Options": "nosniff",
    }
