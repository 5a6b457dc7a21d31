"""The HTTP application, put together from lists: routers, middlewares, error handlers."""

import importlib.resources

from fastapi import APIRouter, FastAPI, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.staticfiles import StaticFiles

from api import __version__, meter
from api.admission import AdmissionMiddleware
from api.answers.truncation import TRUNCATED
from api.assistants import Assistants
from api.auth import KeyMiddleware
from api.body_limit import BodyLimitMiddleware
from api.cluster_gateway import ClusterGateway
from api.compression import CompressionMiddleware
from api.cross_site import CrossSiteMiddleware, is_loopback
from api.errors import HANDLED, ErrorMiddleware, answer_error
from api.files import Files
from api.forwarded import ForwardedMiddleware, Front
from api.gallery_gateway import GalleryGateway
from api.gateway import Gateway
from api.http_metrics import HttpMetricsMiddleware
from api.keyring import Keyring
from api.measured_gateway import MeasuredGateway
from api.openapi import UNPREFIXED, DocumentedAPI
from api.quota_leases import QuotaLeases
from api.records import Records
from api.request_log import RequestLogMiddleware
from api.routes import (
    assistants,
    backend,
    chat,
    completions,
    edits,
    embeddings,
    files,
    gallery,
    generated_images,
    images,
    keys,
    metrics,
    models,
    p2p,
    rerank,
    sound,
    speech,
    stores,
    system,
    tokenize,
    transcriptions,
    vad,
)
from api.schemas.error import ErrorResponse
from api.security_headers import SecurityHeadersMiddleware
from api.settings import Settings
from api.stores import Stores
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
    files.router,
    assistants.router,
    backend.router,
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
    system.guarded_router,
    p2p.router,
    keys.router,
    stores.router,
)
"""Served under the one path that each names."""


def create_app(
    settings: Settings,
    gateway: Gateway,
    gallery_gateway: GalleryGateway,
    cluster: ClusterGateway,
    *,
    keyring: Keyring | None = None,
    leases: QuotaLeases | None = None,
    front: Front = Front.NOTHING,
    answers_request_id: bool = True,
) -> FastAPI:
    """The application that serves the models behind `gateway` and installs those of `gallery_gateway`.

    `keyring`: by default the keys of the settings. `leases`: by default of `cluster`.
    `front`: what passes the requests on. `answers_request_id`: send `X-Request-ID`. Ray Serve does that itself, around
    the application.
    """
    keyring = keyring or Keyring(settings)
    leases = leases or QuotaLeases(cluster.lease)
    app = DocumentedAPI(
        title="Manta",
        version=__version__,
        description="OpenAI's and LocalAI's API, on Ray Serve.",
        docs_url=None,
        redoc_url=None,
        middleware=_middlewares(settings, keyring, leases, front, answers_request_id),
        exception_handlers=dict.fromkeys(HANDLED, answer_error),
        generate_unique_id_function=_operation_id,
        responses={"default": {"model": ErrorResponse}},
    )
    app.state.settings = settings
    app.state.gateway = MeasuredGateway(gateway)
    app.state.gallery = gallery_gateway
    app.state.cluster = cluster
    app.state.keyring = keyring
    app.state.leases = leases
    app.state.generated_images = blobs.generated_images(settings.blob_settings())
    records = Records(settings.database)
    app.state.files = Files(records, blobs.uploads(settings.blob_settings()))
    app.state.assistants = Assistants(records)
    app.state.stores = Stores(records)
    # Checks nothing (KeyMiddleware does): it puts the key into the OpenAPI document, for Swagger's "Authorize".
    key = [Security(HTTPBearer(auto_error=False, description="One of the server's API keys, where it has any."))]
    app.include_router(system.router)
    if not settings.disable_metrics_endpoint:
        app.include_router(metrics.router, dependencies=key)
    app.include_router(models.reload_router, dependencies=key)
    offered = gallery.absent_router if settings.gallery.disable_gallery_endpoint else gallery.router
    app.include_router(offered, dependencies=key)
    for router in OWN_PATH_ROUTERS:
        app.include_router(router, dependencies=key)
    for prefix in PREFIXES:
        for router in OPENAI_ROUTERS:
            app.include_router(router, prefix=prefix, dependencies=key)
    app.mount(
        system.SWAGGER_ASSETS, StaticFiles(directory=str(importlib.resources.files("fastapi_offline") / "static"))
    )
    return app


def _middlewares(
    settings: Settings, keyring: Keyring, leases: QuotaLeases, front: Front, answers_request_id: bool
) -> list[Middleware]:
    """Outermost first. CORS stands outside the errors: a browser shows a page no error that lacks its headers."""
    cors = Middleware(
        CORSMiddleware,
        allow_origins=settings.cors_allow_origins or ("*",),
        allow_methods=("*",),
        allow_headers=("*",),
        expose_headers=("X-Request-ID", "X-Correlation-ID", "Retry-After", TRUNCATED, *gallery.HEADERS, *meter.HEADERS),
    )
    compression = Middleware(CompressionMiddleware, minimum=settings.compression_min_bytes)
    cross_site = Middleware(CrossSiteMiddleware, base_url=settings.base_url, loopback=is_loopback(settings.host))
    return [
        Middleware(ForwardedMiddleware, trusted=settings.trusted_proxies, front=front),
        Middleware(HttpMetricsMiddleware, prefixes=PREFIXES),
        Middleware(RequestLogMiddleware, answers_request_id=answers_request_id),
        Middleware(SecurityHeadersMiddleware),
        *([compression] if settings.compression else []),
        *([cors] if settings.cors else []),
        Middleware(ErrorMiddleware),
        Middleware(KeyMiddleware, keyring=keyring, leases=leases),
        *([] if settings.cors or settings.disable_csrf else [cross_site]),
        Middleware(AdmissionMiddleware, limit=settings.max_concurrent_requests),
        Middleware(BodyLimitMiddleware, settings=settings),
    ]


def _operation_id(route: APIRoute) -> str:
    """OpenAI's name of the operation. Without `/v1` it has a suffix, for ids must be unique."""
    first, *others = route.name.split("_")
    return "".join((first, *map(str.capitalize, others), UNPREFIXED if route.path in _UNPREFIXED else ""))


_UNPREFIXED = frozenset(
    route.path for router in OPENAI_ROUTERS for route in router.routes if isinstance(route, APIRoute)
)
