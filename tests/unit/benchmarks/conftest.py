"""What tests of benchmarks share: a chat server that knows one answer, and the circumstances of figures."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.benchmarks.model_stub import ModelStub

CIRCUMSTANCES: dict[str, Any] = {"time": "now", "commit": "abc", "cpu": "a CPU", "cores": 2, "load_before": 0.0}
"""What `report.headline` writes."""


def sse(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def chunk(content: str | None = None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]}


class ChatStub(ModelStub):
    """Answers every stream with `words`, and a request that isn't one with its usage."""

    def __init__(self) -> None:
        super().__init__()
        self.words = ["a", "b"]
        self.prompt_tokens: Iterator[int] = itertools.repeat(7)
        """Of each request."""

    def answer(self, body: dict[str, Any]) -> bytes:
        usage = {"prompt_tokens": next(self.prompt_tokens), "completion_tokens": len(self.words)}
        if not body["stream"]:
            return json.dumps({"usage": usage}).encode()
        texts = [chunk(word) for word in self.words]
        return sse(*texts, chunk(finish_reason="length"), {"choices": [], "usage": usage})


@pytest.fixture
def stub() -> Iterator[ChatStub]:
    with ChatStub() as server:
        yield server
