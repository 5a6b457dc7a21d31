"""A chat server that knows one answer, for the benchmarks' client."""

import itertools
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


def sse(*chunks: dict[str, Any]) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"


def chunk(content: str | None = None, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}]}


class ChatStub(ThreadingHTTPServer):
    """Answers every stream with `words`, and a request that isn't one with its usage."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.bodies: list[dict[str, Any]] = []
        self.words = ["a", "b"]
        self.status = 200
        self.prompt_tokens: Iterator[int] = itertools.repeat(7)
        """Of each request."""
        self.together: threading.Barrier | None = None
        """Where each request waits for the others: a client that sends them one by one gets nowhere."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ChatStub

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        if self.server.together:
            self.server.together.wait(timeout=10)
        usage = {"prompt_tokens": next(self.server.prompt_tokens), "completion_tokens": len(self.server.words)}
        if body["stream"]:
            texts = [chunk(word) for word in self.server.words]
            answer = sse(*texts, chunk(finish_reason="length"), {"choices": [], "usage": usage})
        else:
            answer = json.dumps({"usage": usage}).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 – the base class's name
        """Says nothing."""


@pytest.fixture
def stub() -> Iterator[ChatStub]:
    with ChatStub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
