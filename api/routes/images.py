"""Images: painted from text, changed by text, varied."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.answers.image import ImageEvents, ImageEventWriter, Kind, images_answer
from api.call import Call, Caller, QueryModel, json_response
from api.disconnect import unless_gone
from api.gateway import LARGE, Gateway
from api.image_form import ImageUpload, read_image_form
from api.json_body import JSONRoute
from api.media import load_image
from api.routes.generated_images import KeepImages
from api.schemas.image import (
    ImageEditForm,
    ImageForm,
    ImageGenerateParams,
    ImageOptions,
    ImagesResponse,
    ImageVariationForm,
    to_image_requests,
)
from api.sse import streamed
from api.uploads import form_schema
from deployments.backends.base import ImageEvent, ImageRequest, ImageResult, Task
from deployments.side_by_side import side_by_side

router = APIRouter(route_class=JSONRoute, tags=["Images"])

_ANSWER = streamed(ImagesResponse)


@router.post("/images/generations", responses=_ANSWER)
async def create_image(
    body: ImageGenerateParams, call: Caller, images: KeepImages, model: QueryModel = None
) -> Response:
    """Images of what a prompt says, whole or (`stream`) with previews as they are made."""
    card = call.gateway.resolve(model or body.model, Task.IMAGE)
    requests = to_image_requests(body, body.prompt, call.settings, tenant=call.tenant, request_id=call.request_id)
    if body.file:
        image = await unless_gone(call.receive, load_image(body.file, "file", call.settings))
        requests = [replace(request, image=image) for request in requests]
    return await _painted(call, images, card.name, body, requests, "image_generation")


@router.post("/images/edits", responses=_ANSWER, openapi_extra=form_schema(ImageEditForm, ["image"], ["mask"]))
async def create_image_edit(request: Request, call: Caller, images: KeepImages, model: QueryModel = None) -> Response:
    """An image changed as a prompt says, where the mask is transparent, or everywhere."""
    return await _edited(call, images, model, await read_image_form(request, ImageEditForm), mask_is_alpha=True)


@router.post("/images/inpainting", responses=_ANSWER, openapi_extra=form_schema(ImageEditForm, ["image", "mask"]))
async def create_image_inpainting(
    request: Request, call: Caller, images: KeepImages, model: QueryModel = None
) -> Response:
    """LocalAI's form of an edit: the image is changed where the mask is white."""
    upload = await read_image_form(request, ImageEditForm, needs_mask=True)
    return await _edited(call, images, model, upload, mask_is_alpha=False)


@router.post("/images/variations", responses=_ANSWER, openapi_extra=form_schema(ImageVariationForm, ["image"]))
async def create_image_variation(
    request: Request, call: Caller, images: KeepImages, model: QueryModel = None
) -> Response:
    """Images that are like a given one; `strength` says how far from it they may be."""
    return await _edited(call, images, model, await read_image_form(request, ImageVariationForm), mask_is_alpha=True)


async def _edited(
    call: Call, images: KeepImages, model: str | None, upload: ImageUpload[Any], *, mask_is_alpha: bool
) -> Response:
    params: ImageForm = upload.params
    card = call.gateway.resolve(model or params.model, Task.IMAGE)
    requests = to_image_requests(params, params.prompts, call.settings, tenant=call.tenant, request_id=call.request_id)
    requests = [
        replace(request, image=upload.image, mask=upload.mask, mask_is_alpha=mask_is_alpha) for request in requests
    ]
    return await _painted(call, images, card.name, params, requests, "image_edit")


async def _painted(
    call: Call, images: KeepImages, model: str, wire: ImageOptions, requests: Sequence[ImageRequest], kind: Kind
) -> Response:
    if wire.stream:
        events = _events(call.gateway, model, requests)
        return ImageEvents(events, ImageEventWriter(kind, wire), call.settings.keepalive)

    async def paint(request: ImageRequest) -> ImageResult:
        result: ImageResult = await call.gateway.call(model, "paint", request, large=_is_large(request))
        return result

    results = await unless_gone(call.receive, side_by_side(paint, requests, at_once=len(requests)))
    return json_response(await images_answer(wire, results, images.keep))


async def _events(
    gateway: Gateway, model: str, requests: Sequence[ImageRequest]
) -> AsyncGenerator[tuple[int, ImageEvent], None]:
    """Of one prompt after the other; each with the number of images before."""
    before = 0
    for request in requests:
        async with aclosing(gateway.stream(model, "stream_paint", request, large=_is_large(request))) as events:
            async for event in events:
                yield before, event
        before += request.n


def _is_large(request: ImageRequest) -> bool:
    return len(request.image or b"") + len(request.mask or b"") >= LARGE
