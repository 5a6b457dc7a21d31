"""From puts to groups."""

import asyncio

import pytest

from deployments.backends.base import Token
from deployments.backends.token_stream import TokenStream
from deployments.errors import EngineError


async def test_what_came_together_is_one_group() -> None:
    stream = TokenStream(asyncio.get_running_loop())
    for number in range(3):
        stream.put(Token(number, b"x"), None, None)
    groups = stream.groups()
    assert [token.id for token in (await anext(groups)).tokens] == [0, 1, 2]
    stream.put(Token(3, b"x"), None, None)
    stream.put(None, "stop", None)
    last = await anext(groups)
    assert ([token.id for token in last.tokens], last.finish_reason) == ([3], "stop")
    with pytest.raises(StopAsyncIteration):
        await anext(groups)


async def test_tokens_before_an_error_are_not_lost() -> None:
    stream = TokenStream(asyncio.get_running_loop())
    stream.put(Token(7, b"x"), None, None)
    stream.put(None, None, EngineError("broken"))
    groups = stream.groups()
    assert [token.id for token in (await anext(groups)).tokens] == [7]
    with pytest.raises(EngineError, match="broken"):
        await anext(groups)
