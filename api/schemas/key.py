"""API keys, as operators see them: never the key itself."""

from collections.abc import Mapping

from pydantic import BaseModel

from api.keys import REQUESTS, TOKENS, Key, Role


class KeyUse(BaseModel):
    """Of the last minute. Counted is what has a limit; tokens that running requests may still take are included."""

    requests: int | None
    tokens: int | None


class ListedKey(BaseModel):
    name: str
    role: Role
    models: list[str] | None
    """Names, and shell patterns of names, of the models it may use. null: all."""
    requests_per_minute: int | None
    """null: no limit."""
    tokens_per_minute: int | None
    used: KeyUse


def to_listed_key(key: Key, used: Mapping[str, int]) -> ListedKey:
    counted = {resource: used.get(resource, 0) for resource in key.limits}
    return ListedKey(
        name=key.name,
        role=key.role,
        models=list(key.models) or None,
        requests_per_minute=key.limits.get(REQUESTS),
        tokens_per_minute=key.limits.get(TOKENS),
        used=KeyUse(requests=counted.get(REQUESTS), tokens=counted.get(TOKENS)),
    )
