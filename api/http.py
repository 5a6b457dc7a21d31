"""The HTTP application, put together from lists: routers, middlewares, error handlers."""

from importlib.resources import files

from fastapi import APIRouter, FastAPI, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from api import __version__
from api.answers.truncation import TRUNCATED
from api.auth import KeyMiddleware
from api.body_limit import BodyLimitMiddleware
from api.cluster_gateway import ClusterGateway
from api.errors import HANDLED, ErrorMiddleware, answer_error
from api.gallery_gateway import GalleryGateway
from api.gateway import Gateway
from api.openapi import DocumentedAPI
from api.request_log import RequestLogMiddleware
from api.routes import (
    chat,
    completions,
    edits,
    embeddings,
    gallery,
    generated_images,
    images,
    models,
    rerank,
    sound,
    speech,
    system,
    tokenize,
    transcriptions,
    vad,
)
from api.schemas.error import ErrorResponse
from api.settings import Settings
from gallery import blobs

OPENAI_ROUTERS: tuple[APIRouter, ...] = (
    chat.router,
    completions.router,
    edits.router,
    embeddings.router,
    rerank.router,
    tokenize.router,
    transcriptions.router,
    speech.router,
    vad.router,
    images.router,
    models.router,  # last: `/models/{model}` takes any path that begins so
)
"""Served under `/v1` and, as LocalAI does, without it."""

PREFIXES = ("/v1", "")

OWN_PATH_ROUTERS: tuple[APIRouter, ...] = (
    rerank.cohere_router,
    speech.localai_router,
    speech.elevenlabs_router,
    sound.router,
    generated_images.router,
)
"""Served under the one path that each names."""


def create_app(
    settings: Settings,
    gateway: Gateway,
    gallery_gateway: GalleryGateway,
    cluster: ClusterGateway,
    *,
    answers_request_id: bool = True,
) -> FastAPI:
    """The application that serves the models behind `gateway` and installs those of `gallery_gateway`.

    `answers_request_id`: send `X-Request-ID`. Ray Serve does that itself, around the application.
    """
    app = DocumentedAPI(
        title="Manta",
        version=__version__,
        description="OpenAI's and LocalAI's API, on Ray Serve.",
        docs_url=None,
        redoc_url=None,
        middleware=_middlewares(settings, answers_request_id),
        exception_handlers=dict.fromkeys(HANDLED, answer_error),
        generate_unique_id_function=_operation_id,
        responses={"4XX": {"model": ErrorResponse}, "5XX": {"model": ErrorResponse}},
    )
    app.state.settings = settings
    app.state.gateway = gateway
    app.state.gallery = gallery_gateway
    app.state.cluster = cluster
    app.state.generated_images = blobs.generated_images(settings.blob_settings())
    # Checks nothing (KeyMiddleware does): it puts the key into the OpenAPI document, for Swagger's "Authorize".
    key = [Security(HTTPBearer(auto_error=False, description="One of the server's API keys, where it has any."))]
    app.include_router(system.router)
    app.include_router(models.reload_router, dependencies=key)
    offered = gallery.absent_router if settings.gallery.disable_gallery_endpoint else gallery.router
    app.include_router(offered, dependencies=key)
    for router in OWN_PATH_ROUTERS:
        app.include_router(router, dependencies=key)
    for prefix in PREFIXES:
        for router in OPENAI_ROUTERS:
            app.include_router(router, prefix=prefix, dependencies=key)
    app.mount(system.SWAGGER_ASSETS, StaticFiles(directory=str(files("fastapi_offline") / "static")))
    return app


def _middlewares(settings: Settings, answers_request_id: bool) -> list[Middleware]:
    """Outermost first. CORS stands outside the errors: a browser shows a page no error that lacks its headers."""
    keys = [key.get_secret_value() for key in settings.api_keys]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_allow_origins or ("*",),
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=("X-Request-ID", "X-Correlation-ID", "Retry-After", TRUNCATED, *gallery.HEADERS),
    )
    return [
        Middleware(RequestLogMiddleware, answers_request_id=answers_request_id),
        *([cors] if settings.cors else []),
        Middleware(ErrorMiddleware),
        Middleware(KeyMiddleware, keys=keys),
        Middleware(BodyLimitMiddleware, settings=settings),
    ]


def _operation_id(route: APIRoute) -> str:
    """OpenAI's name of the operation. Without `/v1` it has a suffix, for ids must be unique."""
    first, *others = route.name.split("_")
    return "".join((first, *map(str.capitalize, others), "Unprefixed" if route.path in _UNPREFIXED else ""))


_UNPREFIXED = frozenset(
    route.path for router in OPENAI_ROUTERS for route in router.routes if isinstance(route, APIRoute)
)
