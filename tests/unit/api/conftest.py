"""The application over a scripted gateway, and clients for it."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI

from api.http import create_app
from api.settings import Settings
from tests.unit.local_dispatch import LocalDispatch

AppFactory = Callable[..., FastAPI]


@pytest.fixture
def gateway() -> LocalDispatch:
    return LocalDispatch()


@pytest.fixture
def make_app(gateway: LocalDispatch, tmp_path: Path) -> AppFactory:
    """Makes the application with some settings."""

    def make(**settings: Any) -> FastAPI:
        return create_app(Settings(models_path=tmp_path, data_path=tmp_path, **settings), gateway)

    return make


@pytest.fixture
async def client(make_app: AppFactory) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(make_app()) as client:
        yield client


@pytest.fixture
async def openai_client(make_app: AppFactory) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(make_app()))
    async with openai.AsyncOpenAI(
        base_url="http://manta/v1", api_key="none", http_client=http, max_retries=0
    ) as client:
        yield client


def http_client(app: FastAPI, **options: Any) -> httpx.AsyncClient:
    """A bare client, in-process."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://manta", **options)
