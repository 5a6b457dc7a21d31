"""A backend without a model, for tests and load work: it says the prompt back, and fails or dawdles when told to.

A token is a byte. What it is told comes in the config's `options`, each `key:value`:
`load_delay`, `first_delay` and `delay` (seconds: at load, before the first token, before each token),
`fail_load` (message), `fail_after` (tokens), `repeat` (times the prompt is said), `exit_after` (tokens; it dies),
`answer` (what it says instead of the prompt, `\\n` for a newline: a tool call, reasoning, broken JSON, …),
`media` (kinds that it reads, such as `image,audio`; it says how many bytes each has).
Constraints are accepted and not obeyed: what is scripted comes out.
"""

import asyncio
import math
import os
import time
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from deployments.backends.base import Generate, Progress, Token, TokenGroup, TokenLogprob
from deployments.backends.request_checks import check_ids
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded, EngineError, ModelLoadFailed

BYTES = 256
"""Tokens there are."""


class Echo:
    """Deterministic TextEngine: answer = prompt."""

    chat_template: str | None = "{{ messages[-1]['content'] }}{# `tools` change nothing #}{% if tools %}{% endif %}"

    def __init__(self, context_size: int, options: dict[str, str]) -> None:
        self.context_size = context_size
        self.media_markers: Mapping[str, str | None] = {
            kind: f"<{kind}>" for kind in filter(None, options.get("media", "").split(","))
        }
        self.special_tokens: dict[str, str] = {}
        self._first_delay = float(options.get("first_delay", 0))
        self._delay = float(options.get("delay", 0))
        self._repeat = int(options.get("repeat", 1))
        self._answer = options["answer"].replace("\\n", "\n").encode() if "answer" in options else None
        self._fail_after = float(options.get("fail_after", math.inf))
        self._exit_after = float(options.get("exit_after", math.inf))
        self._busy = 0

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "Echo":
        return cls(config.context_size or 8192, load_options(config, progress))

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        return list(text.encode())

    def detokenize(self, tokens: list[int]) -> bytes:
        check_ids(tokens, BYTES, "tokens")
        return bytes(tokens)

    async def generate(self, request: Generate) -> AsyncGenerator[TokenGroup, None]:
        check_ids(request.tokens, BYTES, "prompt")
        prompt = list(self._seen(request)) if request.media else request.tokens
        if len(prompt) >= self.context_size:
            raise ContextLengthExceeded(
                f"this model's maximum context length is {self.context_size} tokens, "
                f"and the prompt has {len(prompt)} tokens"
            )
        room = self.context_size - len(prompt)
        limit = room if request.max_tokens is None else min(room, request.max_tokens)
        answer = prompt * self._repeat if self._answer is None else self._answer
        self._busy += 1
        try:
            await asyncio.sleep(self._first_delay)
            yield TokenGroup([], prompt_tokens=len(prompt) if request.media else None, queue_seconds=0.0)
            for place in range(len(request.resume), min(len(answer), limit)):
                if place >= self._fail_after:
                    raise EngineError(f"echo was told to fail after {place} tokens")
                if place >= self._exit_after:
                    os._exit(1)
                await asyncio.sleep(self._delay)
                yield TokenGroup([_token(answer[place], request.top_logprobs)])
            yield TokenGroup([], finish_reason="length" if len(answer) > limit else "stop")
        finally:
            self._busy -= 1

    def _seen(self, request: Generate) -> bytes:
        """The prompt, with what it sees of each medium in its place."""
        text = request.prompt
        for media in request.media:
            text = text.replace(f"<{media.kind}>", f"[{media.kind}: {len(media.data)} bytes]", 1)
        return text.encode()

    def stats(self) -> dict[str, float]:
        return {"slots_busy": self._busy, "queued": 0}

    def close(self) -> None:
        """Nothing to free."""


def load_options(config: ModelConfig, progress: Progress) -> dict[str, str]:
    """What it was told, after the time and with the outcome that loading was told to have."""
    options = dict(option.split(":", 1) for option in config.options or [])
    load_until = time.monotonic() + (delay := float(options.get("load_delay", 0)))
    while (left := load_until - time.monotonic()) > 0:
        progress(1 - left / delay)
        time.sleep(min(left, 0.1))
    if "fail_load" in options:
        raise ModelLoadFailed(options["fail_load"])
    return options


def _token(byte: int, top_logprobs: int | None) -> Token:
    """Certain of itself: probability 1."""
    text = bytes([byte])
    if top_logprobs is None:
        return Token(byte, text)
    return Token(byte, text, TokenLogprob(byte, text, 0.0, [TokenLogprob(byte, text, 0.0)][:top_logprobs]))
