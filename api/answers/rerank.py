"""The answer to a rerank request: Jina's, which is LocalAI's too, and Cohere's."""

import uuid
from collections.abc import Callable, Mapping
from typing import Any

from api.schemas.rerank import Document, RerankParams
from deployments.backends.base import Scores

RerankAnswer = Callable[[str, RerankParams, Scores], Mapping[str, Any]]
"""Of the model's name, what was asked, and its scores."""


def jina_answer(model: str, asked: RerankParams, scores: Scores) -> dict[str, Any]:
    """With the documents, unless they are declined."""
    usage = {"prompt_tokens": scores.prompt_tokens, "total_tokens": scores.prompt_tokens}
    results = _ranked(asked, scores, with_documents=asked.return_documents is not False)
    return {"model": model, "usage": usage, "results": results}


def cohere_answer(model: str, asked: RerankParams, scores: Scores) -> dict[str, Any]:
    """Without the documents, unless they are asked for. The model isn't named."""
    meta = {
        "api_version": {"version": "2"},
        "tokens": {"input_tokens": scores.prompt_tokens, "output_tokens": 0},
    }
    results = _ranked(asked, scores, with_documents=bool(asked.return_documents))
    return {"id": str(uuid.uuid4()), "results": results, "meta": meta}


def _ranked(asked: RerankParams, scores: Scores, *, with_documents: bool) -> list[dict[str, Any]]:
    """The best `top_n`, the most relevant first; equals in the order of the request."""
    places = sorted(range(len(scores.scores)), key=lambda place: -scores.scores[place])[: asked.top_n]
    return [
        {
            "index": place,
            **({"document": _shown(asked.documents[place])} if with_documents else {}),
            "relevance_score": scores.scores[place],
        }
        for place in places
    ]


def _shown(document: Document) -> dict[str, Any]:
    return {"text": document} if isinstance(document, str) else document
