"""Questions to a text engine, and its answers."""

import asyncio
from typing import Any

from deployments.backends.base import Generate, Sampling, TextEngine, Token

GREEDY = Sampling(temperature=0)


def ask(engine: TextEngine, question: str, **fields: Any) -> Generate:
    """A question to SmolLM2, greedy and short unless the fields say otherwise."""
    text = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    fields = {"sampling": GREEDY, "max_tokens": 32, **fields}
    return Generate(tokens=engine.tokenize(text, add_bos=True, special=True), **fields)


async def collect(engine: TextEngine, request: Generate, delay: float = 0) -> tuple[list[Token], str | None]:
    """The tokens, and why they end. Asked after `delay` seconds: among requests that run already."""
    await asyncio.sleep(delay)
    tokens, finish_reason = [], None
    async for group in engine.generate(request):
        tokens += group.tokens
        finish_reason = group.finish_reason
    return tokens, finish_reason


async def text_of(engine: TextEngine, request: Generate) -> str:
    tokens, _ = await collect(engine, request)
    return b"".join(token.text for token in tokens).decode()
