"""Vector stores. LocalAI's, without `/v1`."""

from typing import Annotated

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import Response

from api.json_body import JSONRoute
from api.schemas.store import (
    StoresDelete,
    StoresFind,
    StoresFindResponse,
    StoresGet,
    StoresGetResponse,
    StoresSet,
    require_one_each,
    to_json,
    to_key,
    to_keys,
)
from api.stores import Stores

router = APIRouter(prefix="/stores", route_class=JSONRoute, tags=["Stores"])


async def _stores(request: Request) -> Stores:
    stores: Stores = request.app.state.stores
    return stores


StoresOf = Annotated[Stores, Depends(_stores)]


@router.post("/set", response_class=Response)
async def stores_set(body: StoresSet, stores: StoresOf) -> Response:
    """Store values by key, each in place of the one that the key had. The answer is empty."""
    require_one_each(body.keys, body.values)
    await stores.set(body.store, await to_keys(body.keys), body.values)
    return Response()


@router.post("/get", response_model=StoresGetResponse)
async def stores_get(body: StoresGet, stores: StoresOf) -> Response:
    """The keys that are there, in the order asked for, and their values."""
    return _answer(await to_json(await stores.get(body.store, await to_keys(body.keys))))


@router.post("/find", response_model=StoresFindResponse)
async def stores_find(body: StoresFind, stores: StoresOf) -> Response:
    """The keys most similar to one, with their values; the most similar first."""
    found = await stores.find(body.store, await to_key(body.key), body.topk)
    return _answer(await to_json(found, similarities=True))


@router.post("/delete", response_class=Response)
async def stores_delete(body: StoresDelete, stores: StoresOf) -> Response:
    """Delete keys; one that isn't there is no error. The answer is empty."""
    await stores.delete(body.store, await to_keys(body.keys))
    return Response()


def _answer(body: bytes) -> Response:
    return Response(body, media_type="application/json")
