"""Text generation as a deployment: prompts and constraints in, text deltas out."""

import asyncio
import dataclasses
import math
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from deployments.backends.base import (
    ChatRequest,
    CompletionRequest,
    Delta,
    DeltaGroup,
    EditRequest,
    Generate,
    Media,
    TextEngine,
    TextRequest,
    TextResult,
    Token,
    TokenizeRequest,
    Usage,
)
from deployments.config import ModelConfig
from deployments.errors import InvalidRequest, Overloaded
from deployments.metrics import QUEUE_SECONDS
from deployments.text.answer import Answer
from deployments.text.decoding import Finetune
from deployments.text.deltas import collect, side_by_side
from deployments.text.marks import Marks
from deployments.text.prompt import Prompt, PromptBuilder
from deployments.text.reasoning import splitter_for
from deployments.text.tool_choice import ToolPlan, tool_plan
from deployments.text.tool_formats import format_for

T = TypeVar("T")

GROUP_WINDOW_S = 0.015
"""After a group was sent, what comes in within this time crosses as one.

A crossing costs 150–300 µs of CPU, whatever its size (rayserve.md §3.2).
"""

INLINE_CHARACTERS = 2000
"""Text that is rendered and tokenized in less than a millisecond."""


@dataclass(slots=True)
class Source:
    """What one or more choices continue."""

    tokens: list[int]
    """Empty where there are media: then the engine reads the text."""
    text: str = ""
    """Unknown where the client sent tokens."""
    media: list[Media] = field(default_factory=list)
    add_bos: bool = True
    """Of the text, where the engine reads it."""


class ChatModel:
    """Serves one text-generation engine. The unary methods are the streaming ones, collected here: one crossing."""

    def __init__(self, engine: TextEngine, config: ModelConfig, models_path: Path) -> None:
        self.engine = engine
        self._config = config
        self._sampling = config.sampling()
        self._prompts = PromptBuilder(
            config, models_path, engine.chat_template, engine.special_tokens, engine.media_markers
        )
        self._tool_format = format_for(config, engine.chat_template)
        self._marks = Marks(engine)
        self._max_queued = -1 if config.max_queued_requests is None else config.max_queued_requests
        self._waited = QUEUE_SECONDS.labels(config.name).observe
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
        def planned() -> tuple[ToolPlan | None, Source]:
            plan = tool_plan(request, self._config.function, self._tool_format, native=self._prompts.native_tools)
            prompt = self._prompts.chat(
                request.messages,
                request.template_kwargs,
                plan.tools if plan else (),
                instructions=plan.instructions if plan else "",
                media=len(request.media),
            )
            if self._constraint(request, plan):
                prompt.text += self._end_of_thinking(prompt.text)
            return plan, self._source(prompt, [request.media[place] for place in prompt.media])

        size = sum(len(str(message.get("content"))) for message in request.messages) + len(str(request.tools))
        plan, source = await _computed(planned, size)
        async with aclosing(self._stream(request, [source], window_s, plan)) as groups:
            async for group in groups:
                yield group

    async def stream_complete(
        self, request: CompletionRequest, window_s: float = GROUP_WINDOW_S
    ) -> AsyncGenerator[DeltaGroup, None]:
        def sources() -> list[Source]:
            return [
                self._source(self._prompts.completion(p)) if isinstance(p, str) else Source(list(p))
                for p in request.prompts
            ]

        prompts = await _computed(sources, sum(map(len, request.prompts)))
        if request.echo and not request.resume:
            yield DeltaGroup(
                [
                    Delta(i * request.n + j, text)
                    for i, text in enumerate(self._text(prompt.tokens) for prompt in prompts)
                    for j in range(request.n)
                ]
            )
        async with aclosing(self._stream(request, prompts, window_s)) as groups:
            async for group in groups:
                yield group

    async def stream_edit(
        self, request: EditRequest, window_s: float = GROUP_WINDOW_S
    ) -> AsyncGenerator[DeltaGroup, None]:
        def sources() -> list[Source]:
            return [self._source(self._prompts.edit(text, request.instruction)) for text in request.inputs]

        size = sum(map(len, request.inputs)) + len(request.instruction)
        async with aclosing(self._stream(request, await _computed(sources, size), window_s)) as groups:
            async for group in groups:
                yield group

    def _source(self, prompt: Prompt, media: Sequence[Media] = ()) -> Source:
        tokens = [] if media else self.engine.tokenize(prompt.text, add_bos=prompt.add_bos, special=True)
        return Source(tokens, prompt.text, list(media), prompt.add_bos)

    def _text(self, tokens: list[int]) -> str:
        return self.engine.detokenize(tokens).decode(errors="replace")

    async def _stream(
        self, request: TextRequest, sources: Sequence[Source], window_s: float, plan: ToolPlan | None = None
    ) -> AsyncGenerator[DeltaGroup, None]:
        """All choices of all prompts side by side, the usage on the last group."""
        if not all(source.tokens or source.media for source in sources):
            raise InvalidRequest("the prompt is empty").at("prompt")
        if 0 <= self._max_queued <= self.engine.stats()["queued"]:
            raise Overloaded(f"{self._max_queued} requests already wait for this model").after(1)
        usage = Usage(prompt_tokens=sum(len(source.tokens) for source in sources))
        choices = []
        for i, source in enumerate(sources):
            for nth in range(request.n):
                index = i * request.n + nth
                generate = self._generate(request, source, index, nth, plan)
                choices.append(self._choice(generate, self._answer(index, request, source, plan), usage, nth))
        open_choices = len(choices)
        async with aclosing(side_by_side(choices, window_s)) as groups:
            async for deltas in groups:
                open_choices -= sum(delta.finish_reason is not None for delta in deltas)
                yield DeltaGroup(deltas, usage if open_choices == 0 else None)

    def _generate(
        self, request: TextRequest, source: Source, choice: int, nth: int, plan: ToolPlan | None = None
    ) -> Generate:
        sampling = dataclasses.replace(self._sampling, **request.sampling)
        if sampling.seed is not None:
            sampling = dataclasses.replace(sampling, seed=sampling.seed + nth)  # n answers, not n times the same
        return Generate(
            tokens=source.tokens,
            sampling=sampling,
            max_tokens=self._config.parameters.max_tokens or None if request.max_tokens is None else request.max_tokens,
            top_logprobs=request.top_logprobs,
            tenant=request.tenant,
            resume=request.resume[choice] if choice < len(request.resume) else [],
            prompt=source.text if source.media else "",
            media=source.media,
            add_bos=source.add_bos,
            **self._constraint(request, plan),
        )

    def _constraint(self, request: TextRequest, plan: ToolPlan | None) -> dict[str, Any]:
        """Fields of Generate that say what the output must be; empty: anything."""
        fields: dict[str, Any]
        if plan is not None:
            own = plan.constraint
            fields = {"grammar": request.grammar, "json_schema": own.json_schema, "lark": own.lark}
        elif request.grammar is not None or request.json_schema is not None:
            fields = {"grammar": request.grammar, "json_schema": request.json_schema}
        else:
            fields = {"grammar": self._config.grammar or None}
        return {name: value for name, value in fields.items() if value is not None}

    def _end_of_thinking(self, prompt: str) -> str:
        """What closes the reasoning that a template has begun: who must write JSON from the first token can't think."""
        splitter = splitter_for(self._config, self.engine.chat_template, prompt)
        return f"\n{splitter.closing}\n\n" if splitter and splitter.closing else ""

    def _answer(self, index: int, request: TextRequest, source: Source, plan: ToolPlan | None) -> Answer:
        stop = [*self._stop, *request.stop]
        if not isinstance(request, ChatRequest):
            return Answer(index, stop, self._finetune)
        splitter = None
        if not self._constraint(request, plan):
            splitter = splitter_for(self._config, self.engine.chat_template, source.text)
        marks = (splitter.marks if splitter else frozenset()) | (self._tool_format.marks if plan else frozenset())
        return Answer(
            index,
            stop,
            self._finetune,
            splitter=splitter,
            parser=plan.parser() if plan else None,
            most_calls=math.inf if plan and plan.parallel else 1,
            shown=self._marks.shown(marks),
        )

    async def _choice(self, generate: Generate, answer: Answer, usage: Usage, nth: int) -> AsyncGenerator[Delta, None]:
        """One sequence, from tokens to deltas."""
        usage.completion_tokens += len(generate.resume)
        answer.replay(Token(token_id, self.engine.detokenize([token_id])) for token_id in generate.resume)
        async with aclosing(self.engine.generate(generate)) as groups:
            async for group in groups:
                if group.queue_seconds is not None:
                    self._waited(group.queue_seconds)
                usage.cached_tokens += group.cached_tokens
                if nth == 0:  # the choices share the prompt
                    usage.prompt_tokens += group.prompt_tokens or 0
                for token in group.tokens:
                    usage.completion_tokens += 1
                    answer.push(token)
                    if answer.stopped:
                        break
                finish = "stop" if answer.stopped else group.finish_reason
                if delta := answer.delta(finish):
                    yield delta
                if finish:
                    return


async def _computed(function: Callable[[], T], characters: int) -> T:
    """The result of rendering and tokenizing so much text: in a thread, unless that takes longer than the work."""
    return function() if characters <= INLINE_CHARACTERS else await asyncio.to_thread(function)
