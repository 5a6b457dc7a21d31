"""ChatModel on the echo engine."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deployments.backends.base import (
    ChatRequest,
    CompletionRequest,
    Delta,
    DeltaGroup,
    EditRequest,
    Generate,
    Token,
    TokenGroup,
    TokenizeRequest,
)
from deployments.backends.echo import Echo
from deployments.chat import ChatModel
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest, Overloaded


def model(tmp_path: Path, options: list[str] | None = None, **fields: Any) -> ChatModel:
    config = ModelConfig(name="echo", backend="echo", options=options or [], **fields)
    return ChatModel(Echo.load(config, tmp_path, lambda _: None), config, tmp_path)


def say(text: str, **fields: Any) -> ChatRequest:
    return ChatRequest(messages=[{"role": "user", "content": text}], **fields)


async def groups(stream: AsyncIterator[DeltaGroup]) -> list[DeltaGroup]:
    return [group async for group in stream]


async def test_the_unary_answer_is_the_stream_collected(tmp_path: Path) -> None:
    echo = model(tmp_path)
    streamed = await groups(echo.stream_chat(say("hällo 🐳")))
    result = await echo.chat(say("hällo 🐳"))
    text = "".join(delta.text for group in streamed for delta in group.deltas)
    assert text == result.choices[0].text == "hällo 🐳"
    assert result.choices[0].finish_reason == streamed[-1].deltas[-1].finish_reason == "stop"
    assert result.usage == streamed[-1].usage
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (11, 11)
    assert [group.usage for group in streamed[:-1]] == [None] * (len(streamed) - 1)


async def test_max_tokens_ends_with_length(tmp_path: Path) -> None:
    result = await model(tmp_path).chat(say("hello", max_tokens=3))
    assert (result.choices[0].text, result.choices[0].finish_reason) == ("hel", "length")
    assert result.usage.completion_tokens == 3


async def test_a_stop_string_ends_the_sequence_and_is_not_sent(tmp_path: Path) -> None:
    echo = model(tmp_path, stopwords=["never"])
    result = await echo.chat(say("one two three", stop=["two"]))
    assert (result.choices[0].text, result.choices[0].finish_reason) == ("one ", "stop")
    assert echo.engine.stats()["slots_busy"] == 0


async def test_n_choices_of_several_prompts_have_their_own_index(tmp_path: Path) -> None:
    result = await model(tmp_path).complete(CompletionRequest(prompts=["ab", [99, 100]], n=2))
    assert [(c.index, c.text) for c in result.choices] == [(0, "ab"), (1, "ab"), (2, "cd"), (3, "cd")]
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (4, 8)


async def test_echo_puts_the_prompt_before_the_answer(tmp_path: Path) -> None:
    result = await model(tmp_path).complete(CompletionRequest(prompts=["ab"], echo=True))
    assert result.choices[0].text == "abab"


async def test_tokens_that_are_ready_together_cross_together(tmp_path: Path) -> None:
    """All that echo says at once crosses in far fewer groups than tokens, the first token at once."""
    streamed = await groups(model(tmp_path).stream_chat(say("x" * 500)))
    assert len(streamed) < 20
    assert sum(len(delta.token_ids) for group in streamed for delta in group.deltas) == 500


async def test_an_error_of_the_engine_reaches_the_caller_after_the_text_before_it(tmp_path: Path) -> None:
    seen = ""
    stream = model(tmp_path, ["fail_after:2"]).stream_chat(say("hello"))

    async def read() -> None:
        nonlocal seen
        async for group in stream:
            seen += "".join(delta.text for delta in group.deltas)

    with pytest.raises(EngineError, match="told to fail after 2"):
        await read()
    assert seen == "he"


async def test_a_reader_that_leaves_frees_the_engine(tmp_path: Path) -> None:
    echo = model(tmp_path, ["delay:0.01", "repeat:1000"])
    stream = echo.stream_complete(CompletionRequest(prompts=["ab", "cd"], n=3))
    await anext(stream)
    assert echo.engine.stats()["slots_busy"] == 6
    await stream.aclose()  # type: ignore[attr-defined]
    assert echo.engine.stats()["slots_busy"] == 0


async def test_resume_continues_after_what_was_delivered(tmp_path: Path) -> None:
    echo = model(tmp_path)
    whole = await groups(echo.stream_chat(say("one ENDgame", stop=["ENDx"])))
    ids = [i for group in whole for delta in group.deltas for i in delta.token_ids]
    for cut in (0, 4, 6, 11):  # in the middle of what looks like a stop string, too
        rest = await groups(echo.stream_chat(say("one ENDgame", stop=["ENDx"], resume=[ids[:cut]])))
        sent_before = {0: "", 4: "one ", 6: "one ", 11: "one ENDgame"}[cut]
        assert sent_before + "".join(d.text for g in rest for d in g.deltas) == "one ENDgame"
        assert rest[-1].usage == whole[-1].usage


async def test_finetune_makes_a_stream_one_cleaned_delta(tmp_path: Path) -> None:
    streamed = await groups(model(tmp_path, cutstrings=[r"\d+"]).stream_chat(say("a1b22c")))
    texts = [delta.text for group in streamed for delta in group.deltas]
    assert texts == ["abc"]


async def test_edits_render_input_and_instruction(tmp_path: Path) -> None:
    echo = model(tmp_path)
    result = await echo.edit(EditRequest(inputs=["teh cat", "a dgo"], instruction="fix"))
    assert ["teh cat" in result.choices[0].text, "a dgo" in result.choices[1].text] == [True, True]


async def test_an_over_long_prompt_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(ContextLengthExceeded, match=r"8 tokens.* 9 tokens"):
        await model(tmp_path, context_size=8).chat(say("123456789"))


async def test_an_empty_prompt_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="empty"):
        await model(tmp_path).complete(CompletionRequest(prompts=[""]))


async def test_a_full_queue_refuses_with_429(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = model(tmp_path, max_queued_requests=2)
    for queued in (0, 1):
        monkeypatch.setattr(echo.engine, "stats", lambda queued=queued: {"queued": queued})
        assert (await echo.chat(say("x"))).choices[0].text == "x"
    monkeypatch.setattr(echo.engine, "stats", lambda: {"queued": 2})
    with pytest.raises(Overloaded) as refused:
        await echo.chat(say("x"))
    assert refused.value.status == 429 and refused.value.retry_after


async def test_a_seed_differs_between_choices(tmp_path: Path) -> None:
    echo = model(tmp_path)
    seeds = [echo._generate(say("x", sampling={"seed": 7}), [1], n, n).sampling.seed for n in range(3)]
    assert seeds == [7, 8, 9]


async def test_tokenize(tmp_path: Path) -> None:
    assert await model(tmp_path).tokenize(TokenizeRequest("hé")) == [104, 195, 169]


class Lagging(Echo):
    """An engine whose second sequence says nothing until the first has spoken."""

    first_spoke = asyncio.Event()

    async def generate(self, request: Generate) -> AsyncIterator[TokenGroup]:
        if request.tokens == [98]:
            await self.first_spoke.wait()
        yield TokenGroup([Token(request.tokens[0], bytes(request.tokens))])
        self.first_spoke.set()
        yield TokenGroup([], "stop")


async def test_one_choice_does_not_wait_for_another(tmp_path: Path) -> None:
    config = ModelConfig(name="echo", backend="echo")
    chat = ChatModel(Lagging(100, {}), config, tmp_path)
    seen: list[Delta] = []
    async with asyncio.timeout(5):
        async for group in chat.stream_complete(CompletionRequest(prompts=["a", "b"])):
            seen += group.deltas
    assert [(d.index, d.text) for d in seen if d.text] == [(0, "a"), (1, "b")]
