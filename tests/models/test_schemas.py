"""Five of the schemas of `make verify-schemas`, on llama.cpp behind the running server."""

import asyncio

import openai

from tests.serving import KEY, Server
from tests.verify.schemas import ask


async def test_answers_obey_random_schemas(server: Server, smollm2: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, timeout=120) as client:
        outcomes = await asyncio.gather(*(ask(client, smollm2, schema, seed=0) for schema in range(5)))
    assert [outcome for outcome in outcomes if outcome.problem] == []
