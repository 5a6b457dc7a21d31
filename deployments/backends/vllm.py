"""The `vllm` engine: models in Hugging Face's layout, batched continuously by vLLM, in an environment of its own."""

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deployments.backends.admission import Admission
from deployments.backends.base import Generate, Progress, TokenGroup
from deployments.backends.hf_vocab import HfVocab
from deployments.backends.request_checks import check_ids, check_length, check_request_ids
from deployments.backends.vllm_arguments import lora_adapter
from deployments.backends.vllm_config import load_failures, vllm_config
from deployments.backends.vllm_constraint import constraint_arguments
from deployments.backends.vllm_gauges import Gauges
from deployments.backends.vllm_media import multi_modal_data
from deployments.backends.vllm_outputs import GroupMaker
from deployments.backends.vllm_sampling import sampling_arguments
from deployments.config import ModelConfig
from deployments.errors import ContextLengthExceeded, EngineError, InvalidRequest

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM


class Vllm:
    """A model in vLLM's engine. Implements `base.TextEngine`."""

    @classmethod
    def load(cls, config: ModelConfig, models_path: Path, progress: Progress) -> "Vllm":
        """Blocking. vLLM's scheduler and the model run in child processes, which end with this one.

        Raises ConfigInvalid, and ModelLoadFailed in vLLM's own words.
        """
        made = vllm_config(config, models_path)
        progress(0.1)
        from vllm.v1.engine.async_llm import AsyncLLM

        gauges = Gauges()
        with load_failures(config):
            engine = AsyncLLM.from_vllm_config(
                made, stat_loggers=[gauges.logger], disable_log_stats=bool(config.disable_log_stats)
            )
        progress(1.0)
        return cls(engine, gauges, lora_adapter(config, models_path))

    def __init__(self, engine: "AsyncLLM", gauges: Gauges, lora: Path | None) -> None:
        model = engine.model_config
        self.context_size: int = model.max_model_len
        self._vocab = HfVocab(engine.get_tokenizer(), model.get_vocab_size())
        self.chat_template = self._vocab.chat_template or _processor_template(engine)
        self.special_tokens = self._vocab.special_tokens()
        self.media_markers = _media_markers(engine)
        self._admission = Admission(engine.vllm_config.scheduler_config.max_num_seqs)
        self._gauges = gauges
        self._lora = _lora_request(lora)
        self._open: AsyncLLM | None = engine

    # ---- base.TextEngine ----

    def tokenize(self, text: str, *, add_bos: bool, special: bool) -> list[int]:
        return self._vocab.tokenize(text, add_bos=add_bos, special=special)

    def detokenize(self, tokens: list[int]) -> bytes:
        check_ids(tokens, self._vocab.size, "tokens")
        return self._vocab.detokenize(tokens)

    async def generate(self, request: Generate) -> AsyncGenerator[TokenGroup, None]:
        engine = self._engine()
        self._check(request)
        room = None if request.max_tokens is None else request.max_tokens - len(request.resume)
        if (room is not None and room <= 0) or len(request.tokens) + len(request.resume) >= self.context_size:
            yield TokenGroup([], "length")
            return
        params, prompt = await self._params(request, room), await self._prompt(engine, request)
        async with self._admission.slot(request.tenant) as waited:
            maker = GroupMaker(self._vocab, request.top_logprobs, has_media=bool(request.media), queue_seconds=waited)
            outputs = engine.generate(prompt, params, request_id=uuid.uuid4().hex, lora_request=self._lora)
            async with aclosing(_translated(outputs)) as stream:
                async for output in stream:
                    yield maker.group(output)

    def stats(self) -> dict[str, float]:
        return {
            "slots": self._admission.slots,
            "slots_busy": self._admission.busy,
            "queued": self._admission.queued,
            **self._gauges.cells(idle=self._admission.busy == 0),
            "failed": float(self._open is not None and self._open.errored),
        }

    def close(self) -> None:
        engine, self._open = self._open, None
        if engine is not None:
            engine.output_processor.propagate_error(EngineError("the model was unloaded"))
            engine.shutdown()

    # ---- requests ----

    def _engine(self) -> "AsyncLLM":
        if self._open is None:
            raise EngineError("the engine is closed")
        if self._open.errored:
            raise EngineError("vLLM's engine has died")
        return self._open

    def _check(self, request: Generate) -> None:
        if not request.tokens and not request.media:
            raise InvalidRequest("the prompt has no tokens").at("prompt")
        check_length(len(request.tokens), self.context_size)
        check_request_ids(request, self._vocab.size)

    async def _params(self, request: Generate, room: int | None) -> "SamplingParams":
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        arguments = sampling_arguments(request, room=room)
        constraint = None
        if request.constrained:
            if request.resume:
                raise EngineError("vLLM can't go on with a constrained answer: its grammars start at the beginning")
            constraint = StructuredOutputsParams(**await asyncio.to_thread(constraint_arguments, request))
        with _refusals():
            return SamplingParams(**arguments, output_kind=RequestOutputKind.DELTA, structured_outputs=constraint)

    async def _prompt(self, engine: "AsyncLLM", request: Generate) -> Any:
        """In vLLM's form. What was generated already is part of it: penalties on the answer alone forget that."""
        if not request.media:
            return {"type": "token", "prompt_token_ids": [*request.tokens, *request.resume]}
        tokens = await asyncio.to_thread(self.tokenize, request.prompt, add_bos=request.add_bos, special=True)
        media = await asyncio.to_thread(multi_modal_data, request.media)
        prompt = {"prompt_token_ids": [*tokens, *request.resume], "multi_modal_data": media}
        try:
            with _refusals():
                (rendered,) = await engine.renderer.render_cmpl_async([prompt])
        except AssertionError as error:  # so does vLLM say that the prompt has no place for one of them
            raise InvalidRequest(f"the prompt and its pictures or sounds don't fit: {error}").at("messages") from error
        return rendered


async def _translated(outputs: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """vLLM's outputs; its errors as ours."""
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    try:
        with _refusals():
            async with aclosing(outputs) as stream:
                async for output in stream:
                    yield output
    except EngineDeadError as error:
        raise EngineError("vLLM's engine has died") from error
    except EngineGenerateError as error:
        cause = error.__cause__
        raise cause if isinstance(cause, EngineError) else EngineError(f"vLLM failed: {cause}") from error


@contextmanager
def _refusals() -> Iterator[None]:
    """What vLLM finds wrong with a request, as our error, at its parameter where vLLM names one."""
    from vllm.exceptions import VLLMClientError

    try:
        yield
    except (VLLMClientError, ValueError) as error:
        message = str(error.args[0]) if error.args else type(error).__name__
        if "maximum model length" in message:
            raise ContextLengthExceeded(message) from error
        refusal = InvalidRequest(f"vLLM refuses the request: {message}")
        raise refusal.at(parameter) if (parameter := getattr(error, "parameter", None)) else refusal from error


def _lora_request(adapter: Path | None) -> "LoRARequest | None":
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=adapter.name, lora_int_id=1, lora_path=str(adapter))


def _processor_template(engine: "AsyncLLM") -> str | None:
    """The chat template of a model that reads pictures, where it isn't among the tokenizer's files."""
    processor = engine.renderer.mm_processor
    template = getattr(processor.info.get_hf_processor(), "chat_template", None) if processor is not None else None
    return template if isinstance(template, str) else None


def _media_markers(engine: "AsyncLLM") -> Mapping[str, str | None]:
    """What the model takes and `limit_mm_per_prompt` doesn't rule out. Its chat template marks their places."""
    processor = engine.renderer.mm_processor
    limits = processor.info.allowed_mm_limits if processor is not None else {}
    return {kind: None for kind in ("image", "audio") if limits.get(kind)}
