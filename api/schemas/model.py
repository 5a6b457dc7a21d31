"""Installed models, as clients see them."""

from typing import Literal

from pydantic import BaseModel

from deployments.backends.base import ModelCard


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    """Unix seconds: when its config was written."""
    owned_by: Literal["manta"] = "manta"

    # Ours
    backend: str
    tasks: list[str]
    """What it is for: chat, embedding, …"""
    alias_of: str | None = None
    scoring: str | None = None
    """How a model that reranks makes its scores: `cross-encoder`, or `cosine` similarity of embeddings."""


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class Reloaded(BaseModel):
    """What a reload found. The configs in `errors` are refused, all others served."""

    models: int
    errors: dict[str, str]
    """File → what is wrong with it."""


def to_model(card: ModelCard) -> Model:
    return Model(
        id=card.name,
        created=card.created,
        backend=card.backend,
        tasks=list(card.tasks),
        alias_of=card.alias_of,
        scoring=card.scoring or None,
    )
