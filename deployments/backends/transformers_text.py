"""The `transformers` engine: any decoder-only model of the library, text or images in, many requests in one batch."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from deployments.backends.base import Generate, Progress, TokenGroup
from deployments.backends.engine_loop import EngineLoop
from deployments.backends.hf_vocab import HfVocab
from deployments.backends.request_checks import check_ids, check_length, check_request_ids
from deployments.backends.token_stream import TokenStream
from deployments.backends.torch_sampling import TorchSampler
from deployments.backends.transformers_batching import DecodeFailed, PromptJob, Scheduler
from deployments.backends.transformers_decoder import TransformersDecoder
from deployments.backends.transformers_loading import LoadedModel, load_model
from deployments.backends.transformers_vision import PictureReader
from deployments.config import ModelConfig
from deployments.errors import (
    ConfigInvalid,
    InvalidRequest,
    ModelLoadFailed,
    UnsupportedParameter,
)
from deployments.text.constraint import TokenConstraint, grammar_of

DEFAULT_CONTEXT = 8192
"""Largest context that a model gets unasked."""
DEFAULT_SLOTS = 32


class TransformersText:
    """A loaded model. Implements `base.TextEngine`."""

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "TransformersText":
        """Blocking; nothing comes from the network. Raises ConfigInvalid, ModelLoadFailed in the library's words."""
        loaded = load_model(config, models_path)
        progress(0.9)
        try:
            engine = cls(loaded, *_sizes(config, loaded.model.config))
        except DecodeFailed as failure:
            raise ModelLoadFailed(f"{config.name}: a first step failed: {failure}") from failure
        progress(1.0)
        return engine

    def __init__(self, loaded: LoadedModel, context_size: int, cells: int, slots: int) -> None:
        """`cells`: tokens in the cache of all sequences together, padding included."""
        model, tokenizer = loaded.model, loaded.tokenizer
        self.context_size = context_size
        self._vocab = HfVocab(tokenizer, model.config.get_text_config(decoder=True).vocab_size)
        self.special_tokens = self._vocab.special_tokens()
        self._pictures: PictureReader | None = None
        if loaded.processor is not None:
            self._pictures = PictureReader(loaded.processor)
        self.media_markers: Mapping[str, str | None] = {"image": None} if self._pictures else {}
        own = self._pictures.chat_template if self._pictures else None
        self.chat_template = own or self._vocab.chat_template
        self._ends = _end_ids(model, tokenizer)
        self._decoder = decoder = TransformersDecoder(model)
        scheduler = Scheduler(decoder, slots=slots, cells=cells, batch_tokens=loaded.placement.batch_tokens)
        self._loop: EngineLoop[PromptJob] = EngineLoop(scheduler, "transformers", decoder.close)

    # ---- base.TextEngine ----

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        return self._vocab.tokenize(text, add_bos=add_bos, special=special)

    def detokenize(self, tokens: list[int]) -> bytes:
        check_ids(tokens, self._vocab.size, "tokens")
        return self._vocab.detokenize(tokens)

    async def generate(self, request: Generate) -> AsyncGenerator[TokenGroup, None]:
        self._loop.check()
        prompt, inputs = await self._prompt(request)
        self._check(request, prompt)
        prompt_tokens = len(prompt) if request.media else None
        limit = self.context_size
        if request.max_tokens is not None:
            limit = min(limit, len(prompt) + request.max_tokens)
        if len(prompt) + len(request.resume) >= limit:
            yield TokenGroup([], "length", prompt_tokens=prompt_tokens)
            return
        sampler = await self._sampler(request, prompt)
        stream = TokenStream(asyncio.get_running_loop())
        job = PromptJob([*prompt, *request.resume], limit, sampler, stream, request.tenant, inputs=inputs)
        try:
            self._loop.submit(job)
            first = True
            async for group in stream.groups():
                if first:
                    first = False
                    group.queue_seconds, group.prompt_tokens = job.queue_seconds, prompt_tokens
                yield group
        finally:
            self._loop.cancel(job)

    def stats(self) -> dict[str, float]:
        return {**self._loop.stats(), "kv_cache_bytes": self._decoder.cache_bytes}

    def close(self) -> None:
        self._loop.close()

    # ---- requests, on the event loop ----

    async def _prompt(self, request: Generate) -> tuple[list[int], Mapping[str, Any]]:
        """Ids, and what the model reads beside them."""
        if not request.media:
            return request.tokens, {}
        if self._pictures is None:
            raise UnsupportedParameter("this model reads text only").at("messages")
        return await asyncio.to_thread(self._pictures.read, request.prompt, request.media, add_bos=request.add_bos)

    def _check(self, request: Generate, prompt: list[int]) -> None:
        if not prompt:
            raise InvalidRequest("the prompt has no tokens").at("prompt")
        check_length(len(prompt), self.context_size)
        check_request_ids(request, self._vocab.size)

    async def _sampler(self, request: Generate, prompt: list[int]) -> TorchSampler:
        """Grammars and schemas are compiled off the loop: a large one takes long."""
        if request.constrained:
            return await asyncio.to_thread(self._make_sampler, request, prompt)
        return self._make_sampler(request, prompt)

    def _make_sampler(self, request: Generate, prompt: list[int]) -> TorchSampler:
        grammar = grammar_of(request)
        sampler = TorchSampler(
            self._vocab,
            self._ends,
            request.sampling,
            prompt,
            top_logprobs=request.top_logprobs,
            constraint=None if grammar is None else TokenConstraint(self._vocab.guidance, grammar),
        )
        sampler.replay(request.resume)
        return sampler


def _sizes(config: ModelConfig, model_config: Any) -> tuple[int, int, int]:
    """Tokens that one request may use, cells of the cache, slots. Raises ConfigInvalid."""
    trained = getattr(model_config.get_text_config(decoder=True), "max_position_embeddings", None)
    context_size = config.context_size or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    cells = config.kv_cells or 4 * context_size
    if cells < context_size:
        raise ConfigInvalid(
            f"{config.name}: kv_cells ({cells}) is less than context_size ({context_size}): "
            "one request alone would not fit. Raise kv_cells or lower context_size."
        )
    return context_size, cells, config.parallel or DEFAULT_SLOTS


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """End-of-generation tokens: the tokenizer's, and those of the model's generation settings."""
    named = [model.generation_config.eos_token_id, model.config.get_text_config(decoder=True).eos_token_id]
    ids: set[int] = {tokenizer.eos_token_id} if tokenizer.eos_token_id is not None else set()
    for one in named:
        ids |= set(one) if isinstance(one, list) else {one} - {None}
    return frozenset(ids)
