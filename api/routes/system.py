"""What is asked of the server itself."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse

from api import __version__
from api.call import Caller, ClusterOf
from api.schemas.system import SystemInformation, system_information
from deployments.errors import NotReady

router = APIRouter(tags=["System"])
guarded_router = APIRouter(tags=["System"])

SWAGGER_ASSETS = "/swagger/assets"
"""Where the page's script and style are served: from a package, so that it works without the internet."""


class Version(BaseModel):
    version: str


class About(BaseModel):
    name: str
    version: str
    docs: str


@router.get("/")
async def about() -> About:
    """What this server is."""
    return About(name="Manta", version=__version__, docs="/swagger/")


@router.get("/version")
async def version() -> Version:
    return Version(version=f"v{__version__}")


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> str:
    """200 while this process serves."""
    return "OK"


@router.get("/readyz", response_class=PlainTextResponse)
async def readyz(call: Caller) -> str:
    """200 once requests for models can be served; until then 503 with the reason."""
    if reason := call.gateway.ready():
        raise NotReady(reason).after(1)
    return "OK"


@guarded_router.get("/system", response_model_exclude_none=True)
async def system_info(
    cluster: ClusterOf,
    verbose: Annotated[bool, Query(description="All about each model, unloaded ones aside, and the machines.")] = False,
) -> SystemInformation:
    """The backends that models may name, and the models that are loaded."""
    if verbose:
        return system_information(await cluster.models(replicas=True), await cluster.nodes())
    return system_information(await cluster.models())


@router.get("/swagger/", include_in_schema=False)
@router.get("/swagger/index.html", include_in_schema=False)
async def swagger(request: Request) -> HTMLResponse:
    """The routes, to read and to try."""
    root = request.scope.get("root_path", "")
    return get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Manta",
        swagger_js_url=f"{root}{SWAGGER_ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{root}{SWAGGER_ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{root}{SWAGGER_ASSETS}/favicon.png",
    )
