"""The server one writes in an afternoon, for `benchmarks.embeddings`: FastAPI, and `encode` for each request.

    python -m benchmarks.encode_server MODEL_DIRECTORY HOST PORT THREADS

The requests take turns in one thread, so that it has as many for torch as the others, and the event loop stays free.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer


class Inputs(BaseModel):
    input: list[str]


def create_app(model: SentenceTransformer) -> FastAPI:
    app = FastAPI()
    engine = ThreadPoolExecutor(1)
    encode = partial(model.encode, show_progress_bar=False)

    @app.get("/health")
    async def health() -> None:
        """Answers once the model is loaded."""

    @app.post("/embeddings")
    async def embeddings(body: Inputs) -> dict[str, Any]:
        rows = await asyncio.get_running_loop().run_in_executor(engine, encode, body.input)
        return {"data": [{"index": index, "embedding": row.tolist()} for index, row in enumerate(rows)]}

    return app


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[4]))
    model = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
    uvicorn.run(create_app(model), host=sys.argv[2], port=int(sys.argv[3]), access_log=False)
