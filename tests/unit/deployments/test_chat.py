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
    Media,
    Token,
    TokenGroup,
    TokenizeRequest,
)
from deployments.backends.echo import Echo
from deployments.chat import ChatModel, Source
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest, Overloaded, UnsupportedParameter


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
    seeds = [echo._generate(say("x", sampling={"seed": 7}), Source([1]), n, n).sampling.seed for n in range(3)]
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


# ---- tools, reasoning, media -----------------------------------------------------------------------------------------

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\\n{"name": "weather", "arguments": {"city": "Roma"}}\\n</tool_call>'


def scripted(tmp_path: Path, answer: str, **fields: Any) -> ChatModel:
    return model(tmp_path, [f"answer:{answer}"], **{"tool_format": "hermes", **fields})


def pieces(streamed: list[DeltaGroup], index: int = 0) -> list[Delta]:
    return [delta for group in streamed for delta in group.deltas if delta.index == index]


async def test_calls_are_streamed_name_first_and_end_the_answer_so(tmp_path: Path) -> None:
    chat = scripted(tmp_path, f"Let me look.\\n{CALL}")
    streamed = await groups(chat.stream_chat(say("x", tools=[WEATHER]), window_s=0))
    calls = [call for delta in pieces(streamed) for call in delta.tool_calls]
    assert (calls[0].index, calls[0].name) == (0, "weather") and calls[0].id.startswith("call_")
    assert [(call.id, call.name) for call in calls[1:]] == [("", "")] * (len(calls) - 1)
    assert "".join(call.arguments for call in calls) == '{"city": "Roma"}'
    result = (await chat.chat(say("x", tools=[WEATHER]))).choices[0]
    assert (result.text, result.finish_reason) == ("Let me look.", "tool_calls")
    [call] = result.tool_calls
    assert (call.name, call.arguments) == ("weather", '{"city": "Roma"}')
    assert call.id != calls[0].id


@pytest.mark.parametrize("fields", [{}, {"tools": [WEATHER], "tool_choice": "none"}])
async def test_without_tools_a_call_is_text(tmp_path: Path, fields: dict[str, Any]) -> None:
    result = (await scripted(tmp_path, CALL).chat(say("x", **fields))).choices[0]
    assert result.text == CALL.replace("\\n", "\n") and not result.tool_calls and result.finish_reason == "stop"


async def test_choices_have_parsers_of_their_own(tmp_path: Path) -> None:
    result = await scripted(tmp_path, f"{CALL}{CALL}").chat(say("x", n=3, tools=[WEATHER]))
    assert [[call.index for call in choice.tool_calls] for choice in result.choices] == [[0, 1]] * 3
    assert len({call.id for choice in result.choices for call in choice.tool_calls}) == 6


async def test_one_call_is_enough_where_they_must_not_be_parallel(tmp_path: Path) -> None:
    chat = scripted(tmp_path, f"{CALL}{CALL}")
    result = await chat.chat(say("x", tools=[WEATHER], parallel_tool_calls=False))
    assert len(result.choices[0].tool_calls) == 1 and result.choices[0].finish_reason == "tool_calls"
    assert result.usage.completion_tokens < len(CALL) * 2, "the rest was not generated"


async def test_length_in_a_call_is_length(tmp_path: Path) -> None:
    result = (await scripted(tmp_path, CALL).chat(say("x", tools=[WEATHER], max_tokens=55))).choices[0]
    assert result.finish_reason == "length"
    assert result.tool_calls[0].arguments and result.tool_calls[0].arguments in '{"city": "Roma"}'


async def test_a_call_of_nothing_known_is_content(tmp_path: Path) -> None:
    broken = '{"name": "nothing", "arguments"'
    result = (await scripted(tmp_path, broken).chat(say("x", tools=[WEATHER]))).choices[0]
    assert (result.text, result.finish_reason) == (broken, "stop")


async def test_a_resumed_call_goes_on_where_it_was(tmp_path: Path) -> None:
    chat = scripted(tmp_path, f"<think>Hm.</think>Now: {CALL}", reasoning_format="think")
    whole = pieces(await groups(chat.stream_chat(say("x", tools=[WEATHER]), window_s=0)))
    ids: list[int] = []
    for place, delta in enumerate(whole[:-1], 1):
        ids += delta.token_ids
        rest = await groups(chat.stream_chat(say("x", tools=[WEATHER], resume=[list(ids)])))
        parts = [*whole[:place], *pieces(rest)]
        assert "".join(part.reasoning for part in parts) == "Hm."
        assert "".join(part.text for part in parts) == "Now:"
        calls = [call for part in parts for call in part.tool_calls]
        assert [call.name for call in calls if call.name] == ["weather"]
        assert "".join(call.arguments for call in calls) == '{"city": "Roma"}'
        assert rest[-1].deltas[-1].finish_reason == "tool_calls"


async def test_reasoning_is_apart(tmp_path: Path) -> None:
    chat = scripted(tmp_path, "<think>\\nHm.\\n</think>\\n\\nYes.", reasoning_format="think")
    result = (await chat.chat(say("x"))).choices[0]
    assert (result.reasoning, result.text) == ("Hm.", "Yes.")
    completed = (await chat.complete(CompletionRequest(prompts=["x"]))).choices[0]
    assert completed.text.startswith("<think>"), "a completion is raw"


class Recording(Echo):
    """Remembers what it is asked for."""

    asked: Generate

    async def generate(self, request: Generate) -> AsyncIterator[TokenGroup]:
        self.asked = request
        async for group in super().generate(request):
            yield group


def recording(tmp_path: Path, template: str | None = None, answer: str = "", **fields: Any) -> ChatModel:
    config = ModelConfig(name="echo", backend="echo", **fields)
    engine = Recording(8192, {"answer": answer} if answer else {})
    engine.chat_template = template or engine.chat_template
    return ChatModel(engine, config, tmp_path)


def asked(chat: ChatModel) -> Generate:
    assert isinstance(chat.engine, Recording)
    return chat.engine.asked


async def test_a_required_call_is_constrained_and_read_as_json(tmp_path: Path) -> None:
    answer = '{"name": "weather", "arguments": {"city": "Roma"}}'
    chat = recording(tmp_path, answer=answer, tool_format="deepseek", grammar='root ::= "x"')
    result = (await chat.chat(say("x", tools=[WEATHER], tool_choice="required"))).choices[0]
    assert result.tool_calls[0].arguments == '{"city": "Roma"}' and result.finish_reason == "tool_calls"
    assert asked(chat).json_schema is not None and asked(chat).grammar is None


async def test_tools_that_the_template_writes_leave_the_model_free(tmp_path: Path) -> None:
    chat = recording(tmp_path, grammar='root ::= "x"')
    await chat.chat(say("x", tools=[WEATHER]))
    assert (asked(chat).json_schema, asked(chat).lark, asked(chat).grammar) == (None, None, None)
    await chat.chat(say("x", tools=[WEATHER], grammar='root ::= "y"'))
    assert asked(chat).grammar == 'root ::= "y"'
    await chat.chat(say("x"))
    assert asked(chat).grammar == 'root ::= "x"'


async def test_who_must_write_json_does_not_think(tmp_path: Path) -> None:
    template = "{{ messages[-1].content }}{% if tools %}{% endif %}{{ '<think>\\n' }}"
    chat = recording(tmp_path, template, answer='{"name": "weather", "arguments": {"city": "Roma"}}')
    result = (await chat.chat(say("x", tools=[WEATHER], tool_choice="required"))).choices[0]
    assert bytes(asked(chat).tokens).decode() == "x<think>\n\n</think>\n\n"
    assert result.tool_calls and not result.reasoning
    free = (await chat.chat(say("x"))).choices[0]
    assert bytes(asked(chat).tokens).decode() == "x<think>\n"
    assert free.reasoning and not free.text


PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"


async def test_a_template_without_tools_gets_them_in_words_and_no_action_is_content(tmp_path: Path) -> None:
    chat = recording(tmp_path, PLAIN, answer='{"name": "answer", "arguments": {"message": "Hé\\u00e9"}}')
    streamed = pieces(await groups(chat.stream_chat(say("x", tools=[WEATHER]), window_s=0)))
    prompt = bytes(asked(chat).tokens).decode()
    assert prompt.startswith("[system]You can call these tools:\n{") and '"weather"' in prompt and '"answer"' in prompt
    assert prompt.endswith("[user]x")
    assert asked(chat).json_schema is not None
    assert [delta.text for delta in streamed if delta.text] == ["H", "é", "é"]
    assert streamed[-1].finish_reason == "stop" and not any(delta.tool_calls for delta in streamed)


async def test_media_are_shown_where_they_stand(tmp_path: Path) -> None:
    chat = model(tmp_path, ["media:image,audio"])
    parts = [
        {"type": "audio", "index": 1},
        {"type": "text", "text": " and "},
        {"type": "image", "index": 0},
        {"type": "text", "text": "<image>!"},
    ]
    request = ChatRequest(
        messages=[{"role": "user", "content": parts}], media=[Media("image", b"123"), Media("audio", b"12345")], n=2
    )
    result = await chat.chat(request)
    text = "[audio: 5 bytes] and [image: 3 bytes]!"
    assert [choice.text for choice in result.choices] == [text, text]
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (len(text), 2 * len(text))


@pytest.mark.parametrize(("bos", "add_bos"), [("[user]", False), ("<s>", True)])
async def test_the_engine_is_told_whether_a_prompt_with_media_begins_with_bos(
    tmp_path: Path, bos: str, add_bos: bool
) -> None:
    engine = Recording(8192, {"media": "image"})
    engine.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    engine.special_tokens = {"bos_token": bos}
    chat = ChatModel(engine, ModelConfig(name="echo", backend="echo"), tmp_path)
    content = [{"type": "image", "index": 0}]
    await chat.chat(ChatRequest(messages=[{"role": "user", "content": content}], media=[Media("image", b"1")]))
    assert (asked(chat).prompt, asked(chat).add_bos) == ("[user]<image>", add_bos)


async def test_media_that_the_model_does_not_read_are_refused(tmp_path: Path) -> None:
    request = ChatRequest(
        messages=[{"role": "user", "content": [{"type": "image", "index": 0}]}], media=[Media("image", b"1")]
    )
    with pytest.raises(UnsupportedParameter, match="echo takes no images"):
        await model(tmp_path, ["media:audio"]).chat(request)


@pytest.mark.parametrize("echo", [False, True])
async def test_tokens_that_the_model_does_not_have_are_refused(tmp_path: Path, echo: bool) -> None:
    with pytest.raises(InvalidRequest, match="1081 is no token"):
        await model(tmp_path).complete(CompletionRequest(prompts=[[97, 1081]], echo=echo))
