"""The tables about request fields, and what the edge may import."""

import logging
import subprocess
import sys
from dataclasses import fields

import httpx
import pytest

from api.schemas import ignored
from api.schemas.chat import ChatCompletionRequest
from api.schemas.common import SAMPLING_FIELDS, Text
from api.schemas.completion import CompletionCreateParams
from api.schemas.edit import EditCreateParams
from api.schemas.embedding import EmbeddingCreateParams
from api.schemas.rerank import RerankParams
from deployments.backends.base import Sampling


def test_every_sampling_field_can_be_asked_for() -> None:
    assert {*SAMPLING_FIELDS, "logit_bias"} == {field.name for field in fields(Sampling)}
    assert set(SAMPLING_FIELDS) <= set(Text.model_fields)


def test_no_field_is_both_used_and_ignored() -> None:
    for schema in (
        ChatCompletionRequest,
        CompletionCreateParams,
        EditCreateParams,
        EmbeddingCreateParams,
        RerankParams,
    ):
        assert not set(schema.model_fields) & set(ignored.IGNORED_FIELDS)


async def test_ignored_fields_are_reported_once(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignored, "_reported", set())
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        response = await client.post("/v1/completions", json={"prompt": "x", "user": "ann", "x" * 999: 1})
        assert response.status_code == 200
    known, unknown = [record.getMessage() for record in caplog.records if record.name == ignored.__name__]
    assert known == "request field 'user' is accepted and changes nothing: nothing is kept about end users"
    assert len(unknown) < 200


async def test_the_memory_of_reported_fields_is_bounded(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ignored, "_reported", reported := set[str]())
    await client.post("/v1/completions", json={"prompt": "x"} | {f"field{i}": i for i in range(2000)})
    assert len(reported) == 500


def test_the_edge_loads_neither_ray_nor_an_engine() -> None:
    """Only api/dispatch.py knows Ray; an engine in the ingress would cost every replica its memory."""
    code = "import sys, api.http; print(*{'ray', 'llama_cpp', 'torch', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""
