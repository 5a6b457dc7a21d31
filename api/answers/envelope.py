"""What all objects of one answer have in common: id, time, model, usage."""

import time
import uuid
from typing import Any

import orjson

from api.sse import event
from deployments.backends.base import Usage


class Envelope:
    """The outside of one answer. Its constant bytes are made once, not per token."""

    def __init__(self, *, prefix: str, kind: str, chunk_kind: str, model: str, include_usage: bool) -> None:
        """`prefix`: of the id. `kind`, `chunk_kind`: `object` of the whole answer and of a piece of it."""
        self.include_usage = include_usage
        self._head = {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}
        self._chunk_head = self._head | {"object": chunk_kind}
        self._before = b"data: " + orjson.dumps(self._chunk_head)[:-1] + b',"choices":['
        # With `include_usage` every chunk has the key, as OpenAI's have.
        self._after = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"

    def whole(self, choices: list[dict[str, Any]], usage: Usage) -> dict[str, Any]:
        """The object of an answer that is sent at once."""
        return self._head | {"choices": choices, "usage": usage_object(usage)}

    def chunk(self, choice: dict[str, Any]) -> bytes:
        """The event for a piece of one choice."""
        return self._before + orjson.dumps(choice) + self._after

    def usage_chunk(self, usage: Usage | None) -> bytes:
        """The event that ends a stream whose client asked for usage; nothing for others."""
        if usage is None or not self.include_usage:
            return b""
        return event(self._chunk_head | {"choices": [], "usage": usage_object(usage)})


def usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
