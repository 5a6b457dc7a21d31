"""LangChain's standard tests of a chat model: its OpenAI client against the running server, on SmolLM2."""

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.serving import KEY, Server


@pytest.fixture
def vcr() -> None:
    """Recorded HTTP, which is not kept here; the test that wants it skips itself."""


@pytest.fixture
def benchmark() -> None:
    """As `vcr`."""


@pytest.mark.filterwarnings(
    "ignore:Pydantic serializer warnings:UserWarning",  # of the OpenAI client's parsed answers, in LangChain's copy
    "ignore:Received a Pydantic BaseModel V1 schema:UserWarning",  # which one test sends on purpose
)
class TestChatOpenAI(ChatModelIntegrationTests):
    """Those with pictures, sounds and PDFs skip themselves: this model reads only text."""

    @pytest.fixture(autouse=True)
    async def _connect(self, request: pytest.FixtureRequest, server: Server, smollm2: str) -> AsyncIterator[None]:
        """Clients of each test's own: LangChain's live on, in an event loop that has ended."""
        must_end = any(word in request.node.name for word in ("json", "structured", "tool"))
        with httpx2.Client() as client:
            async with httpx2.AsyncClient() as async_client:
                self.params: dict[str, Any] = {
                    "model": smollm2,
                    "base_url": f"{server.url}/v1",
                    "api_key": KEY,
                    "max_tokens": 256 if must_end else 64,  # prose may be cut off
                    "max_retries": 0,
                    "timeout": 110,
                    "seed": 1,
                    "stream_usage": True,  # the default where the base URL is OpenAI's own
                    "model_kwargs": {"parallel_tool_calls": False},  # such a small model may call one tool three times
                    "http_client": client,
                    "http_async_client": async_client,
                }
                yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.params

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "echo"

    @pytest.mark.xfail(reason="JSON mode knows no schema, and 135M parameters don't find the keys that are asked for")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)

    @pytest.mark.xfail(reason="its schema allows other properties than it names, and such a small model invents some")
    def test_structured_output_pydantic_2_v1(self, model: BaseChatModel) -> None:
        super().test_structured_output_pydantic_2_v1(model)

    @pytest.mark.xfail(reason="the call is valid, but 135M parameters don't always copy a Chinese or Japanese name")
    def test_unicode_tool_call_integration(self, model: BaseChatModel) -> None:  # type: ignore[override]
        super().test_unicode_tool_call_integration(model)
