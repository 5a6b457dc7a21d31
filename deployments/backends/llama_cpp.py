"""The `llama-cpp` engine: GGUF models by llama.cpp, many requests at once in one context."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from pathlib import Path

import llama_cpp
from llguidance import LLTokenizer

from deployments.backends.base import Generate, Progress, TokenGroup
from deployments.backends.engine_loop import EngineLoop
from deployments.backends.jobs import Job
from deployments.backends.llama_batching import Scheduler
from deployments.backends.llama_decoder import LlamaDecoder
from deployments.backends.llama_media import MediaPrompt, Projector
from deployments.backends.llama_params import context_params, model_params
from deployments.backends.llama_sampling import LlamaSampler
from deployments.backends.llama_vocab import LlamaModel, LlamaVocab
from deployments.backends.lora import lora_files
from deployments.backends.media_span import MediaSpan
from deployments.backends.request_checks import check_ids, check_length, check_request_ids
from deployments.backends.slots import Slots
from deployments.backends.token_stream import TokenStream
from deployments.config import ModelConfig
from deployments.engine_threads import EngineThreads, Stopped
from deployments.errors import EngineError, InvalidRequest, ModelLoadFailed
from deployments.text.constraint import TokenConstraint, grammar_of


class LlamaCpp:
    """A loaded GGUF model. Implements `base.TextEngine`."""

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "LlamaCpp":
        """Blocking. Raises ConfigInvalid, and ModelLoadFailed in llama.cpp's own words."""
        if config.numa:
            llama_cpp.llama_numa_init(llama_cpp.GGML_NUMA_STRATEGY_DISTRIBUTE)
        model = LlamaModel(models_path / (config.parameters.model or config.name), model_params(config), progress)
        if not model.generates:
            raise ModelLoadFailed(f"{config.parameters.model or config.name} is no decoder-only model: it can't chat")
        projector = Projector(config, models_path / config.mmproj, model) if config.mmproj else None
        whole_pictures = projector is not None and projector.wants_whole_pictures
        params, context_size = context_params(config, model.trained_context, whole_pictures=whole_pictures)
        decoder = LlamaDecoder(model, params)
        try:
            decoder.apply_adapters(lora_files(config, models_path))
        except Exception:
            decoder.close()
            raise
        return cls(model, projector, decoder, context_size, int(params.n_seq_max))

    def __init__(
        self, model: LlamaModel, projector: Projector | None, decoder: LlamaDecoder, context_size: int, slots: int
    ) -> None:
        self.context_size = context_size
        self.media_markers: Mapping[str, str | None] = projector.markers if projector else {}
        self._projector = projector
        self._projecting = EngineThreads(1)
        self.chat_template = model.chat_template
        vocab = LlamaVocab(model)
        self.special_tokens = vocab.special_tokens()
        self._open_vocab: LlamaVocab | None = vocab
        self._guidance: LLTokenizer | None = None
        self._guidance_lock = threading.Lock()
        self._decoder = decoder
        scheduler = Scheduler(decoder, Slots(decoder, slots))
        self._loop: EngineLoop[Job] = EngineLoop(scheduler, "llama.cpp", decoder.close)

    # ---- base.TextEngine ----

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        return self._vocab.tokenize(text, add_bos=add_bos, special=special)

    def detokenize(self, tokens: list[int]) -> bytes:
        check_ids(tokens, self._vocab.size, "tokens")
        return self._vocab.detokenize(tokens)

    async def generate(self, request: Generate) -> AsyncGenerator[TokenGroup, None]:
        self._check(request)
        media = await self._tokenized(request) if request.media else None
        tokens, counted = (media.ids, len(media.ids)) if media else (request.tokens, None)
        check_length(len(tokens), self.context_size)
        limit = self.context_size
        if request.max_tokens is not None:
            limit = min(limit, len(tokens) + request.max_tokens)
        if len(tokens) + len(request.resume) >= limit:
            yield TokenGroup([], "length", prompt_tokens=counted)
            return
        spans = await self._encoded(media, request.tenant) if media else ()
        sampler = await self._sampler(request, media.text_ids if media else tokens)
        media = None  # its decoded files are not needed any more
        stream = TokenStream(asyncio.get_running_loop())
        job = Job([*tokens, *request.resume], limit, sampler, stream, request.tenant, spans=spans)
        try:
            self._loop.submit(job)
            first = True
            async for group in stream.groups():
                if first:
                    first = False
                    group.queue_seconds, group.cached_tokens = job.queue_seconds, job.cached_tokens
                    group.prompt_tokens = counted
                yield group
        finally:
            self._loop.cancel(job)

    def stats(self) -> dict[str, float]:
        stats = self._loop.stats()
        stats["queued"] += sum(self._projecting.stats().values())
        stats["kv_cache_bytes"] = self._decoder.cache_bytes
        return stats

    def close(self) -> None:
        self._loop.close(self._decoder.abort)
        self._projecting.close()
        self._open_vocab = self._guidance = self._projector = None

    # ---- requests, on the event loop ----

    @property
    def _vocab(self) -> LlamaVocab:
        vocab = self._open_vocab
        if vocab is None:
            raise EngineError("the engine is closed")
        return vocab

    def _check(self, request: Generate) -> None:
        self._loop.check()
        if not request.tokens and not request.media:
            raise InvalidRequest("the prompt has no tokens").at("prompt")
        check_request_ids(request, self._vocab.size)

    async def _tokenized(self, request: Generate) -> MediaPrompt:
        """The prompt and its media, decoded and counted, not yet encoded. Decoded files are large: one at a time."""
        projector = self._projector
        if projector is None:
            raise InvalidRequest("this model takes text only").at("messages")

        def tokenize(stopped: Stopped) -> MediaPrompt:
            return projector.tokenize(request.prompt, request.media, add_bos=request.add_bos, most=self.context_size)

        return await self._projecting.run(tokenize, request.tenant)

    async def _encoded(self, prompt: MediaPrompt, tenant: str) -> Sequence[MediaSpan]:
        """Rows of the prompt's media. One prompt at a time, in a thread of its own: meanwhile others' tokens come."""
        if self._projector is None:
            raise EngineError("the engine is closed")
        room = self._decoder.batch.capacity
        if prompt.largest_whole > room:
            raise EngineError(
                f"this model reads the {prompt.largest_whole} tokens of such a picture in one batch, which holds "
                f"{room}: raise parameters.batch in its config"
            )
        return await self._projecting.run(partial(self._projector.encode, prompt), tenant)

    async def _sampler(self, request: Generate, prompt: Sequence[int]) -> LlamaSampler:
        """Grammars and schemas are compiled off the loop: a large one takes long."""
        if request.constrained:
            return await asyncio.to_thread(self._make_sampler, request, prompt)
        return self._make_sampler(request, prompt)

    def _make_sampler(self, request: Generate, prompt: Sequence[int]) -> LlamaSampler:
        vocab = self._vocab  # held until the end: close() in between must not free it
        grammar = grammar_of(request, gbnf=False)
        constraint = TokenConstraint(self._guidance_tokenizer(), grammar) if grammar else None
        sampler = LlamaSampler(
            self._decoder,
            vocab,
            request.sampling,
            prompt,
            context_size=self.context_size,
            top_logprobs=request.top_logprobs,
            grammar=request.grammar,
            constraint=constraint,
        )
        try:
            sampler.replay(request.resume)
        except Exception:
            sampler.close()
            raise
        return sampler

    def _guidance_tokenizer(self) -> LLTokenizer:
        with self._guidance_lock:
            if self._guidance is None:
                self._guidance = self._vocab.guidance()
            return self._guidance
