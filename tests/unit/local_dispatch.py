"""A gateway whose models are scripts: what the HTTP edge is tested against."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from deployments.backends.base import (
    AudioChunk,
    Choice,
    Delta,
    DeltaGroup,
    ModelCard,
    SegmentGroup,
    Task,
    TextResult,
    Usage,
    Vectors,
)
from deployments.errors import InvalidRequest, ModelDisabled, ModelNotFound
from tests.unit.script import played

CARDS = (
    ModelCard("alias", [Task.CHAT], 1_700_000_003, "echo", alias_of="echo"),
    ModelCard("echo", [Task.CHAT], 1_700_000_001, "echo"),
    ModelCard("embed", [Task.EMBEDDING, Task.RERANK], 1_700_000_002, "echo", scoring="cosine"),
    ModelCard("off", [Task.CHAT], 1_700_000_004, "echo", disabled=True),
    ModelCard("org/model.gguf", [Task.CHAT], 1_700_000_005, "echo", loose=True),
)

AUDIO_CARDS = (
    *CARDS,
    ModelCard("composer", [Task.SOUND], 1_700_000_006, "echo"),
    ModelCard("detector", [Task.VAD], 1_700_000_007, "echo"),
    ModelCard("voice", [Task.SPEECH], 1_700_000_008, "echo"),
    ModelCard("whisper", [Task.TRANSCRIPTION], 1_700_000_009, "echo"),
)

USAGE = Usage(prompt_tokens=7, completion_tokens=2, cached_tokens=3)

Step = DeltaGroup | Vectors | SegmentGroup | AudioChunk | Exception | asyncio.Event


class LocalDispatch:
    """Plays `script` for streams, returns `result` for calls; exceptions in either are raised, events waited for."""

    def __init__(self) -> None:
        self.installed: Sequence[ModelCard] = CARDS
        self.script: list[Step] = [
            DeltaGroup([Delta(0, "Hello")]),
            DeltaGroup([Delta(0, " world"), Delta(0, "", "stop")], USAGE),
        ]
        self.result: Any = TextResult([Choice(0, "Hello world", "stop")], USAGE)
        self.wait: asyncio.Event | None = None
        """Set: calls return only when it is."""
        self.not_ready: str | None = None
        self.errors: dict[str, str] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.large = False
        """The last request was to go by reference."""
        self.ended = asyncio.Event()
        """A stream was closed, or a call was cancelled or done."""

    def cards(self) -> list[ModelCard]:
        return list(self.installed)

    def resolve(self, name: str | None, task: Task) -> ModelCard:
        if not name:
            return next(card for card in self.installed if task in card.tasks and not card.alias_of)
        card = next((card for card in self.installed if card.name == name), None)
        if card is None:
            raise ModelNotFound(f"The model {name!r} does not exist.").at("model")
        if card.disabled:
            raise ModelDisabled(f"The model {name!r} is disabled.").at("model")
        if task not in card.tasks:
            raise InvalidRequest(f"The model {name!r} is not for {task}.").at("model")
        return self.resolve(card.alias_of, task) if card.alias_of else card

    async def call(self, model: str, method: str, request: object, *, large: bool = False, merged: bool = False) -> Any:
        self.requests.append((model, method, request))
        self.large = large
        try:
            if self.wait:
                await self.wait.wait()
            if isinstance(self.result, Exception):
                raise self.result
            return self.result
        finally:
            self.ended.set()

    async def stream(
        self, model: str, method: str, request: object, *, large: bool = False
    ) -> AsyncGenerator[Any, None]:
        self.requests.append((model, method, request))
        self.large = large
        try:
            async with aclosing(played(self.script)) as items:
                async for item in items:
                    yield item
        finally:
            self.ended.set()

    async def reload(self) -> dict[str, str]:
        return self.errors

    def ready(self) -> str | None:
        return self.not_ready

    @property
    def request(self) -> Any:
        """The last request."""
        return self.requests[-1][2]
