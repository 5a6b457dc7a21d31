"""The `llama-cpp` engine: GGUF models by llama.cpp, many requests at once in one context."""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path

import llama_cpp
from llguidance import LLTokenizer

from deployments.backends.base import Generate, Progress, TokenGroup
from deployments.backends.jobs import Job, Output
from deployments.backends.llama_batching import Scheduler
from deployments.backends.llama_decoder import LlamaDecoder
from deployments.backends.llama_params import context_params, model_params
from deployments.backends.llama_sampling import LlamaSampler
from deployments.backends.llama_vocab import LlamaModel, LlamaVocab
from deployments.backends.lora import lora_files
from deployments.backends.slots import Slots
from deployments.backends.token_stream import TokenStream
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest, ModelLoadFailed
from deployments.text.constraint import JsonSchemaConstraint

log = logging.getLogger("manta.llama_cpp")

FATAL_FAILURES = 3
"""Steps in a row that ended in an unforeseen exception: the engine is broken, not a request."""


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
        params, context_size = context_params(config, model.trained_context)
        decoder = LlamaDecoder(model, params)
        try:
            decoder.apply_adapters(lora_files(config, models_path))
        except Exception:
            decoder.close()
            raise
        return cls(model, decoder, context_size, int(params.n_seq_max))

    def __init__(self, model: LlamaModel, decoder: LlamaDecoder, context_size: int, slots: int) -> None:
        self.context_size = context_size
        self.chat_template = model.chat_template
        vocab = LlamaVocab(model)
        self.special_tokens = vocab.special_tokens()
        self._open_vocab: LlamaVocab | None = vocab
        self._guidance: LLTokenizer | None = None
        self._guidance_lock = threading.Lock()
        self._decoder = decoder
        self._scheduler = Scheduler(decoder, Slots(decoder, slots))
        self._inbox: deque[Job] = deque()
        self._inbox_lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._failure: EngineError | None = None
        """Why the engine takes no more requests."""
        self._thread = threading.Thread(target=self._run, name="llama.cpp", daemon=True)
        self._thread.start()

    # ---- base.TextEngine ----

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        return self._vocab.tokenize(text, add_bos=add_bos, special=special)

    def detokenize(self, tokens: list[int]) -> bytes:
        self._check_ids(tokens, "tokens")
        return self._vocab.detokenize(tokens)

    async def generate(self, request: Generate) -> AsyncGenerator[TokenGroup, None]:
        self._check(request)
        limit = self.context_size
        if request.max_tokens is not None:
            limit = min(limit, len(request.tokens) + request.max_tokens)
        if len(request.tokens) + len(request.resume) >= limit:
            yield TokenGroup([], "length")
            return
        sampler = await self._sampler(request)
        ids = [*request.tokens, *request.resume]
        stream = TokenStream(asyncio.get_running_loop())
        job = Job(ids, limit, sampler, stream, request.tenant)
        try:
            self._submit(job)
            cached = None
            async for group in stream.groups():
                if cached is None:
                    cached = group.cached_tokens = job.cached_tokens
                yield group
        finally:
            job.cancelled = True
            self._wake.set()

    def stats(self) -> dict[str, float]:
        stats = self._scheduler.stats()
        stats["queued"] += len(self._inbox)
        stats["failed"] = float(self._failure is not None)
        return stats

    def close(self) -> None:
        self._closing = True
        self._decoder.abort()
        self._wake.set()
        self._thread.join()
        self._open_vocab = self._guidance = None

    # ---- requests, on the event loop ----

    @property
    def _vocab(self) -> LlamaVocab:
        vocab = self._open_vocab
        if vocab is None:
            raise EngineError("the engine is closed")
        return vocab

    def _check(self, request: Generate) -> None:
        if self._failure is not None:
            raise EngineError(self._failure.message)
        if not request.tokens:
            raise InvalidRequest("the prompt has no tokens").at("prompt")
        if len(request.tokens) >= self.context_size:
            raise ContextLengthExceeded(
                f"the prompt has {len(request.tokens)} tokens, and the model's context holds {self.context_size} "
                "together with the answer"
            )
        self._check_ids(request.tokens, "prompt")
        self._check_ids(request.resume, "resume")
        self._check_ids(request.sampling.logit_bias, "logit_bias")

    def _check_ids(self, ids: Iterable[int], param: str) -> None:
        size = self._vocab.size
        wrong = next((token for token in ids if not 0 <= token < size), None)
        if wrong is not None:
            raise InvalidRequest(f"{wrong} is no token of this model: ids go from 0 to {size - 1}").at(param)

    async def _sampler(self, request: Generate) -> LlamaSampler:
        """Grammars and schemas are compiled off the loop: a large one takes long."""
        if request.grammar or request.json_schema is not None:
            return await asyncio.to_thread(self._make_sampler, request)
        return self._make_sampler(request)

    def _make_sampler(self, request: Generate) -> LlamaSampler:
        vocab = self._vocab  # held until the end: close() in between must not free it
        constraint = None
        if request.json_schema is not None:
            constraint = JsonSchemaConstraint(self._guidance_tokenizer(), request.json_schema)
        sampler = LlamaSampler(
            self._decoder,
            vocab,
            request.sampling,
            request.tokens,
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

    def _submit(self, job: Job) -> None:
        with self._inbox_lock:
            if self._failure is not None:
                job.sampler.close()
                raise EngineError(self._failure.message)
            self._inbox.append(job)
        self._wake.set()

    # ---- the engine's thread ----

    def _run(self) -> None:
        failures = 0
        while not self._closing and max(failures, self._scheduler.decode_failures) < FATAL_FAILURES:
            while self._inbox:
                self._scheduler.submit(self._inbox.popleft())
            if self._scheduler.idle:
                self._wake.wait()
                self._wake.clear()
                continue
            outputs: list[Output] = []
            try:
                outputs.extend(self._scheduler.step())  # keeps what came before an exception
                failures = 0
            except Exception as error:
                log.exception("the decoding loop failed")
                failures += 1
                outputs += self._scheduler.fail_all(EngineError(f"the decoding loop failed: {error}"))
            _deliver(outputs)
        self._end(EngineError("the engine was closed" if self._closing else "the engine failed and has stopped"))

    def _end(self, reason: EngineError) -> None:
        """Answer everybody, also those who come too late, and free the context."""
        with self._inbox_lock:
            self._failure = reason
        while self._inbox:
            self._scheduler.submit(self._inbox.popleft())
        _deliver(self._scheduler.fail_all(reason))
        self._decoder.close()


def _deliver(outputs: list[Output]) -> None:
    """Wake each event loop once, with everything that a step has for it."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Output]] = {}
    for output in outputs:
        by_loop.setdefault(output.job.stream.loop, []).append(output)
    for loop, share in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put, share)
        except RuntimeError:  # the loop is closed: nobody is left to read
            for output in share:
                output.job.cancelled = True


def _put(outputs: list[Output]) -> None:
    for job, token, finish_reason, error in outputs:
        job.stream.put(token, finish_reason, error)
