"""Text generation as a deployment: prompts and constraints in, text deltas out."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from pathlib import Path

from deployments.backends.base import (
    ChatRequest,
    Choice,
    CompletionRequest,
    Delta,
    DeltaGroup,
    EditRequest,
    Generate,
    TextEngine,
    TextRequest,
    TextResult,
    Token,
    TokenizeRequest,
    Usage,
)
from deployments.config import ModelConfig
from deployments.errors import InvalidRequest, Overloaded
from deployments.text.decoding import Finetune, TextDecoder
from deployments.text.prompt import Prompt, PromptBuilder

GROUP_WINDOW_S = 0.015
"""After a group was sent, what comes in within this time crosses as one.

A crossing costs 150–300 µs of CPU, whatever its size (rayserve.md §3.2).
"""

INLINE_CHARACTERS = 2000
"""Text that is rendered and tokenized in less than a millisecond."""


class ChatModel:
    """Serves one text-generation engine. The unary methods are the streaming ones, collected here: one crossing."""

    def __init__(self, engine: TextEngine, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        self._config = config
        self._sampling = config.sampling()
        self._prompts = PromptBuilder(config, models_path, engine.chat_template, engine.special_tokens)
        self._max_queued = -1 if config.max_queued_requests is None else config.max_queued_requests
        self._stop = list(config.stopwords or [])
        self._finetune = Finetune(
            cutstrings=[re.compile(p) for p in config.cutstrings or []],
            extract_regex=[re.compile(p) for p in config.extract_regex or []],
            trimspace=list(config.trimspace or []),
            trimsuffix=list(config.trimsuffix or []),
        )

    async def chat(self, request: ChatRequest) -> TextResult:
        return await collect(self.stream_chat(request, window_s=0))

    async def complete(self, request: CompletionRequest) -> TextResult:
        return await collect(self.stream_complete(request, window_s=0))

    async def edit(self, request: EditRequest) -> TextResult:
        return await collect(self.stream_edit(request, window_s=0))

    async def tokenize(self, request: TokenizeRequest) -> list[int]:
        return await asyncio.to_thread(self.engine.tokenize, request.content, add_bos=request.add_special, special=True)

    def stats(self) -> dict[str, float]:
        return self.engine.stats()

    def close(self) -> None:
        self.engine.close()

    async def stream_chat(
        self, request: ChatRequest, window_s: float = GROUP_WINDOW_S
    ) -> AsyncGenerator[DeltaGroup, None]:
        def tokens() -> list[list[int]]:
            return [self._tokens(self._prompts.chat(request.messages, request.template_kwargs))]

        size = sum(len(str(message.get("content"))) for message in request.messages)
        async with aclosing(self._stream(request, await _computed(tokens, size), window_s)) as groups:
            async for group in groups:
                yield group

    async def stream_complete(
        self, request: CompletionRequest, window_s: float = GROUP_WINDOW_S
    ) -> AsyncGenerator[DeltaGroup, None]:
        def tokens() -> list[list[int]]:
            return [p if isinstance(p, list) else self._tokens(self._prompts.completion(p)) for p in request.prompts]

        prompts = await _computed(tokens, sum(map(len, request.prompts)))
        if request.echo and not request.resume:
            yield DeltaGroup(
                [
                    Delta(i * request.n + j, text)
                    for i, text in enumerate(map(self._text, prompts))
                    for j in range(request.n)
                ]
            )
        async with aclosing(self._stream(request, prompts, window_s)) as groups:
            async for group in groups:
                yield group

    async def stream_edit(
        self, request: EditRequest, window_s: float = GROUP_WINDOW_S
    ) -> AsyncGenerator[DeltaGroup, None]:
        def tokens() -> list[list[int]]:
            return [self._tokens(self._prompts.edit(text, request.instruction)) for text in request.inputs]

        size = sum(map(len, request.inputs)) + len(request.instruction)
        async with aclosing(self._stream(request, await _computed(tokens, size), window_s)) as groups:
            async for group in groups:
                yield group

    def _tokens(self, prompt: Prompt) -> list[int]:
        return self.engine.tokenize(prompt.text, add_bos=prompt.add_bos, special=True)

    def _text(self, tokens: list[int]) -> str:
        return self.engine.detokenize(tokens).decode(errors="replace")

    async def _stream(
        self, request: TextRequest, prompts: Sequence[list[int]], window_s: float
    ) -> AsyncGenerator[DeltaGroup, None]:
        """All choices of all prompts side by side, the usage on the last group."""
        if not all(prompts):
            raise InvalidRequest("the prompt is empty").at("prompt")
        if 0 <= self._max_queued <= self.engine.stats()["queued"]:
            raise Overloaded(f"{self._max_queued} requests already wait for this model").after(1)
        usage = Usage(prompt_tokens=sum(map(len, prompts)))
        choices = [
            self._choice(i * request.n + j, self._generate(request, tokens, i * request.n + j, j), request, usage)
            for i, tokens in enumerate(prompts)
            for j in range(request.n)
        ]
        open_choices = len(choices)
        async with aclosing(_side_by_side(choices, window_s)) as groups:
            async for deltas in groups:
                open_choices -= sum(delta.finish_reason is not None for delta in deltas)
                yield DeltaGroup(deltas, usage if open_choices == 0 else None)

    def _generate(self, request: TextRequest, tokens: list[int], choice: int, nth: int) -> Generate:
        sampling = dataclasses.replace(self._sampling, **request.sampling)
        if sampling.seed is not None:
            sampling = dataclasses.replace(sampling, seed=sampling.seed + nth)  # n answers, not n times the same
        constrained = request.grammar is not None or request.json_schema is not None
        return Generate(
            tokens=tokens,
            sampling=sampling,
            max_tokens=self._config.parameters.max_tokens or None if request.max_tokens is None else request.max_tokens,
            grammar=request.grammar if constrained else self._config.grammar,
            json_schema=request.json_schema,
            top_logprobs=request.top_logprobs,
            tenant=request.tenant,
            resume=request.resume[choice] if choice < len(request.resume) else [],
        )

    async def _choice(
        self, index: int, generate: Generate, request: TextRequest, usage: Usage
    ) -> AsyncGenerator[Delta, None]:
        """One sequence, from tokens to deltas."""
        decoder = TextDecoder([*self._stop, *request.stop])
        usage.completion_tokens += len(generate.resume)
        for token_id in generate.resume:  # rebuilds what was held back; its text has been sent
            decoder.push(Token(token_id, self.engine.detokenize([token_id])))
        ids: list[int] = []
        whole: list[str] = []
        async with aclosing(self.engine.generate(generate)) as groups:
            async for group in groups:
                usage.cached_tokens += group.cached_tokens
                text = ""
                for token in group.tokens:
                    usage.completion_tokens += 1
                    ids.append(token.id)
                    text += decoder.push(token)
                    if decoder.stopped:
                        break
                finish = "stop" if decoder.stopped else group.finish_reason
                if finish and not decoder.stopped:
                    text += decoder.flush()
                if self._finetune:
                    whole.append(text)
                    text = self._finetune("".join(whole)) if finish else ""
                if text or finish:
                    yield Delta(index, text, finish, decoder.logprobs() or None, ids)
                    ids = []
                if finish:
                    return


async def _computed(function: Callable[[], list[list[int]]], characters: int) -> list[list[int]]:
    """The result of rendering and tokenizing so much text: in a thread, unless that takes longer than the work."""
    return function() if characters <= INLINE_CHARACTERS else await asyncio.to_thread(function)


async def collect(stream: AsyncIterator[DeltaGroup]) -> TextResult:
    """The unary answer is the stream, collected."""
    choices: dict[int, Choice] = {}
    usage = Usage()
    async for group in stream:
        usage = group.usage or usage
        for delta in group.deltas:
            choice = choices.setdefault(delta.index, Choice(delta.index, "", "stop"))
            choice.text += delta.text
            choice.finish_reason = delta.finish_reason or choice.finish_reason
            if delta.logprobs:
                choice.logprobs = [*(choice.logprobs or []), *delta.logprobs]
    return TextResult([choices[index] for index in sorted(choices)], usage)


async def _side_by_side(streams: Sequence[AsyncIterator[Delta]], window_s: float) -> AsyncGenerator[list[Delta], None]:
    """Run the streams at once. Yields the first delta at once, then groups of what came in within the window."""
    queue: asyncio.Queue[Delta | Exception] = asyncio.Queue()

    async def pump(stream: AsyncIterator[Delta]) -> None:
        try:
            async for delta in stream:
                queue.put_nowait(delta)
        except Exception as error:  # noqa: BLE001 – raised by the reader, after what came before it
            queue.put_nowait(error)

    tasks = [asyncio.create_task(pump(stream)) for stream in streams]
    running = len(tasks)
    try:
        while running:
            items = [await queue.get()]
            while not queue.empty():
                items.append(queue.get_nowait())
            deltas = [item for item in items if isinstance(item, Delta)]
            running -= sum(delta.finish_reason is not None for delta in deltas)
            if deltas:
                yield _merged(deltas)
            if error := next((item for item in items if isinstance(item, Exception)), None):
                raise error
            if running:
                await asyncio.sleep(window_s)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _merged(deltas: list[Delta]) -> list[Delta]:
    """One delta per choice: what goes together needs one envelope."""
    merged: dict[int, Delta] = {}
    for delta in deltas:
        if (first := merged.setdefault(delta.index, delta)) is not delta:
            first.text += delta.text
            first.finish_reason = delta.finish_reason
            first.token_ids += delta.token_ids
            if delta.logprobs:
                first.logprobs = [*(first.logprobs or []), *delta.logprobs]
    return list(merged.values())
