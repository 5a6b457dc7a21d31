"""API keys: who has one, what it may do, and what of its limits is used."""

from fastapi import APIRouter
from starlette.requests import Request

from api.auth import ADMIN_ONLY
from api.call import ClusterOf
from api.keyring import Keyring
from api.schemas.key import ListedKey, to_listed_key

router = APIRouter(prefix="/api/keys", tags=["Keys"], dependencies=[ADMIN_ONLY])


@router.get("")
async def list_keys(request: Request, cluster: ClusterOf) -> list[ListedKey]:
    """Every key, without the key, sorted by name."""
    keyring: Keyring = request.app.state.keyring
    used = await cluster.quotas_used() if any(key.limits for key in keyring) else {}
    return [to_listed_key(key, used.get(key.tenant, {})) for key in keyring]
