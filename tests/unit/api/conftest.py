"""The application over a scripted gateway, and clients for it."""

import functools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import openai
import pytest
from fastapi import FastAPI

from api.http import create_app
from api.settings import Settings
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_cluster import LocalCluster
from tests.unit.local_dispatch import LocalDispatch
from tests.unit.local_gallery import LocalGallery


@pytest.fixture
def gateway() -> LocalDispatch:
    return LocalDispatch()


@pytest.fixture
def gallery() -> LocalGallery:
    return LocalGallery()


@pytest.fixture
def cluster() -> LocalCluster:
    return LocalCluster()


@pytest.fixture
def make_app(gateway: LocalDispatch, gallery: LocalGallery, cluster: LocalCluster, tmp_path: Path) -> AppFactory:
    """Makes the application with some settings."""

    def make(**settings: Any) -> FastAPI:
        return create_app(Settings(models_path=tmp_path, data_path=tmp_path, **settings), gateway, gallery, cluster)

    return make


@functools.cache
def _shared_app() -> FastAPI:
    """The application with default settings: making one takes 30 ms, most tests can do with the same."""
    return create_app(Settings(), LocalDispatch(), LocalGallery(), LocalCluster())


@pytest.fixture
def app(gateway: LocalDispatch, gallery: LocalGallery, cluster: LocalCluster) -> FastAPI:
    app = _shared_app()
    app.state.gateway = gateway
    app.state.gallery = gallery
    app.state.cluster = cluster
    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(app) as client:
        yield client


@pytest.fixture
async def openai_client(app: FastAPI) -> AsyncIterator[openai.AsyncOpenAI]:
    http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app))
    async with openai.AsyncOpenAI(
        base_url="http://manta/v1", api_key="none", http_client=http, max_retries=0
    ) as client:
        yield client
