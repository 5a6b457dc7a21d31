"""The gallery: models that can be installed, and the jobs that install and delete them. LocalAI's, without `/v1`."""

import json
from typing import Annotated

import orjson
from fastapi import APIRouter, Query
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from api.auth import ADMIN_ONLY
from api.base_url import base_url
from api.call import Call, Caller, GalleryOf
from api.gallery_gateway import GalleryGateway, Wanted
from api.json_body import JSONRoute
from api.schemas.gallery import (
    ApplyModel,
    GalleryToAdd,
    GalleryToRemove,
    ImportURI,
    ListedGallery,
    ListedModel,
    to_gallery,
    to_import_request,
    to_install_request,
    to_listed_gallery,
)
from api.schemas.job import JobStarted, JobView, to_job_view
from api.sse import EVENTS, EventStream
from deployments.errors import RouteNotFound
from gallery.settings import Gallery
from gallery.status import JobStatus

router = APIRouter(route_class=JSONRoute, tags=["Gallery"])

TOTAL = "X-Total-Count"
UNREADABLE = "X-Unreadable-Galleries"
HEADERS = (TOTAL, UNREADABLE)
"""Of the list of models, beside the models: the answer itself is LocalAI's plain array."""


# ---- models ----------------------------------------------------------------------------------------------------------


@router.post("/models/apply", dependencies=[ADMIN_ONLY])
async def apply_model(body: ApplyModel, request: Request, call: Caller, gallery: GalleryOf) -> JobStarted:
    """Begin to install a model, of a gallery or by addresses."""
    return _started(request, call, await gallery.apply(to_install_request(body)))


@router.post("/models/import-uri", dependencies=[ADMIN_ONLY])
async def import_uri(body: ImportURI, request: Request, call: Caller, gallery: GalleryOf) -> JobStarted:
    """Begin to install a model by the address of its weights, of a repository, or of its YAML."""
    return _started(request, call, await gallery.apply(to_import_request(body)))


@router.post("/models/delete/{name:path}", dependencies=[ADMIN_ONLY])
async def delete_model(name: str, request: Request, call: Caller, gallery: GalleryOf) -> JobStarted:
    """Begin to delete an installed model. Files that another model uses stay."""
    return _started(request, call, await gallery.delete(name))


@router.get("/models/available", response_model=list[ListedModel])
async def list_available_models(
    gallery: GalleryOf,
    search: Annotated[str, Query(description="In name, description and tags.")] = "",
    tag: Annotated[str, Query(description="One of the model's tags.")] = "",
    within: Annotated[str, Query(alias="gallery", description="Name of a gallery.")] = "",
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int | None, Query(ge=1, description="Models in the answer. Left out: all.")] = None,
) -> Response:
    """Models that can be installed. `X-Total-Count` is their number without `offset` and `limit`.

    `X-Unreadable-Galleries` names, as JSON, the galleries that could not be read; GET /models/galleries says why.
    """
    offer = await gallery.offer(Wanted(search, tag, within, offset, limit))
    headers = {TOTAL: str(offer.total)}
    if offer.unreadable:
        headers[UNREADABLE] = json.dumps(offer.unreadable)  # ASCII, whatever the names are
    return Response(orjson.dumps(offer.models), headers=headers, media_type="application/json")


# ---- galleries -------------------------------------------------------------------------------------------------------


@router.get("/models/galleries")
async def list_galleries(gallery: GalleryOf) -> list[ListedGallery]:
    """In the order in which they are searched."""
    return await _listed(gallery, await gallery.galleries())


@router.post("/models/galleries", dependencies=[ADMIN_ONLY])
async def add_gallery(body: GalleryToAdd, gallery: GalleryOf) -> list[ListedGallery]:
    """Add a gallery, for good. Answers the new list."""
    return await _listed(gallery, await gallery.add_gallery(to_gallery(body)))


@router.delete("/models/galleries", dependencies=[ADMIN_ONLY])
async def remove_gallery(body: GalleryToRemove, gallery: GalleryOf) -> list[ListedGallery]:
    """Remove a gallery, for good. Answers the new list."""
    return await _listed(gallery, await gallery.remove_gallery(body.name))


# ---- jobs ------------------------------------------------------------------------------------------------------------


@router.get("/models/jobs")
async def list_jobs(gallery: GalleryOf) -> dict[str, JobView]:
    """uuid → job: those that run or wait, and those that ended in the last days."""
    return {uuid: to_job_view(status) for uuid, status in (await gallery.jobs()).items()}


@router.get("/models/jobs/{uuid}")
async def retrieve_job(uuid: str, gallery: GalleryOf) -> JobView:
    """How a job is doing."""
    return to_job_view(await gallery.job(uuid))


@router.post("/models/jobs/{uuid}/cancel", dependencies=[ADMIN_ONLY])
async def cancel_job(uuid: str, gallery: GalleryOf) -> JobView:
    """End an installation and remove what it has fetched."""
    return to_job_view(await gallery.cancel(uuid))


class JobEvents(EventStream):
    """A job's statuses. The last one has a name of its own: an EventSource that doesn't close then would ask again."""

    quiet = b": nothing new\n\n"
    last = b""


@router.get("/models/jobs/{uuid}/events", response_class=Response, responses={200: {"content": EVENTS}})
async def stream_job(uuid: str, call: Caller, gallery: GalleryOf) -> Response:
    """How a job is doing, told as it goes on: events named `progress`, and at its end one named `end`."""
    return JobEvents(gallery.events(uuid), _event, call.settings.keepalive)


# ---- helpers ---------------------------------------------------------------------------------------------------------


def _started(request: Request, call: Call, uuid: str) -> JobStarted:
    return JobStarted(uuid=uuid, status=f"{base_url(request, call.settings)}/models/jobs/{uuid}")


async def _listed(gallery: GalleryGateway, galleries: list[Gallery]) -> list[ListedGallery]:
    problems = await gallery.problems()
    return [to_listed_gallery(one, problems.get(one.name)) for one in galleries]


def _event(status: JobStatus) -> bytes:
    name = "end" if status.phase.final else "progress"
    return f"event: {name}\ndata: {to_job_view(status).model_dump_json()}\n\n".encode()


# ---- switched off ----------------------------------------------------------------------------------------------------

absent_router = APIRouter(include_in_schema=False)
"""In place of `router` where the setting `disable_gallery_endpoint` is on: else `/models/{model}` would take them."""


async def _absent() -> None:
    raise RouteNotFound("The gallery is switched off on this server (disable_gallery_endpoint).")


for _route in router.routes:
    if isinstance(_route, APIRoute):
        absent_router.add_api_route(_route.path, _absent, methods=list(_route.methods or ()))
