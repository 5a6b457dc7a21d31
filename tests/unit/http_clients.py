"""Ways to reach an application: in-process, or over a real socket in the same event loop."""

import asyncio
import socket
from collections.abc import Callable
from typing import Any, Self

import httpx
import uvicorn
from fastapi import FastAPI

AppFactory = Callable[..., FastAPI]
"""Makes the application; its arguments are settings."""


def http_client(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    """A bare client, in-process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://manta", **options)


class Served:
    """The application behind a real socket, in this event loop."""

    def __init__(self, app: FastAPI) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        self.port = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._server.serve([self._socket]))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.should_exit = True
        await self._task

    async def raw(self, request: bytes) -> bytes:
        """The first bytes of the answer to some bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(request)
        answer = await asyncio.wait_for(reader.read(65_536), 5)
        writer.close()
        await writer.wait_closed()
        return answer
