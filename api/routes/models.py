"""Installed models."""

from typing import Annotated

from fastapi import APIRouter, Query

from api.auth import ADMIN_ONLY
from api.call import Caller, GalleryOf
from api.name_filter import name_filter
from api.schemas.model import Model, ModelList, Reloaded, to_model
from deployments.errors import ModelDisabled, ModelNotFound

router = APIRouter(tags=["Models"])
reload_router = APIRouter(tags=["Models"])


@router.get("/models")
async def list_models(
    call: Caller,
    filter: Annotated[str | None, Query(description="A regular expression that the name must match.")] = None,  # noqa: A002, LocalAI's name
    exclude_configured: Annotated[
        bool, Query(alias="excludeConfigured", description="Weights that a configured model uses are never listed.")
    ] = True,
) -> ModelList:
    """Every model that can be asked for, sorted."""
    matches = name_filter(filter)
    cards = sorted(call.gateway.cards(), key=lambda card: card.name)
    return ModelList(data=[to_model(card) for card in cards if not card.disabled and matches(card.name)])


@router.get("/models/{model:path}")
async def retrieve_model(model: str, call: Caller) -> Model:
    """One model."""
    card = next((card for card in call.gateway.cards() if card.name == model), None)
    if card is None:
        raise ModelNotFound(f"The model {model!r} does not exist; GET /v1/models lists those that do.").at("model")
    if card.disabled:
        raise ModelDisabled(f"The model {model!r} is disabled.").at("model")
    return to_model(card)


@reload_router.post("/models/reload", dependencies=[ADMIN_ONLY])
async def reload_models(call: Caller, gallery: GalleryOf) -> Reloaded:
    """Read the model configs again, and begin to fetch what they name and isn't there."""
    errors = await call.gateway.reload()
    await gallery.reload()
    return Reloaded(models=len(call.gateway.cards()), errors=errors)
