"""From an engine's thread to a request's event loop: tokens, grouped as they come."""

import asyncio
from collections.abc import AsyncIterator

from deployments.backends.base import FinishReason, Token, TokenGroup


class TokenStream:
    """What one request has got so far and nobody has read yet. All methods belong to the event loop `loop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._tokens: list[Token] = []
        self._finish_reason: FinishReason | None = None
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def put(self, token: Token | None, finish_reason: FinishReason | None, error: Exception | None) -> None:
        if token is not None:
            self._tokens.append(token)
        self._finish_reason = finish_reason
        self._error = error
        self._news.set()

    async def groups(self) -> AsyncIterator[TokenGroup]:
        """Everything available as one group, again and again until the end. Raises what `put` was given."""
        while True:
            await self._news.wait()
            self._news.clear()
            tokens, self._tokens = self._tokens, []
            finish_reason, error = self._finish_reason, self._error
            if tokens or finish_reason is not None:
                yield TokenGroup(tokens, finish_reason)
            if finish_reason is not None:
                return
            if error is not None:
                raise error
