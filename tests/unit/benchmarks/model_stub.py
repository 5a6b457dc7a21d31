"""A server of a model, for the benchmarks' clients: it keeps what it is asked, and answers at once."""

import json
import threading
from typing import Any

from tests.loopback import Handler, Loopback


class ModelStub(Loopback):
    def __init__(self) -> None:
        super().__init__(_Handler)
        self.bodies: list[dict[str, Any]] = []
        self.status = 200
        self.together: threading.Barrier | None = None
        """Where each request waits for the others: a client that sends them one by one gets nowhere."""

    def answer(self, body: dict[str, Any]) -> bytes:
        raise NotImplementedError


class _Handler(Handler):
    def post(self) -> None:
        stub: ModelStub = self.server.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        stub.bodies.append(body)
        if stub.together:
            stub.together.wait(timeout=10)
        self.send(stub.status, stub.answer(body))
