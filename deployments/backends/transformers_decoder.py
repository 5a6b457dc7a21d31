"""A generating model of transformers and the batch of sequences in its cache: token ids in, logits out."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache

from deployments.backends.jobs import TokenSampler
from deployments.backends.torch_sampling import Choices
from deployments.backends.transformers_batching import DecodeFailed, PromptJob
from deployments.backends.transformers_cache import BatchCache

CACHE_NAMES = ("past_key_values", "cache_params")
"""Names of `forward`'s parameter for the cache; Mamba's is the second."""

ROUNDING = 0.2
"""Standard deviations by which logits may differ between batches, in half precision; wrong ones differ by many."""


@dataclass(slots=True)
class Prompts:
    """Left-padded prompts that are being computed."""

    cache: Cache
    lengths: list[int]
    ids: torch.Tensor
    """[prompts, columns]"""
    mask: torch.Tensor
    """[prompts, columns], 0 where there is padding."""
    positions: torch.Tensor | None
    """[…, prompts, columns]; None where the model counts itself."""
    inputs: Mapping[str, Any]
    done: int = 0
    """Columns that are in the cache."""


class TransformersDecoder:
    """Implements `transformers_batching.Decoder`. One thread at a time.

    What a step's inputs are is left to the model's own `prepare_inputs_for_generation`, as `generate` does.
    """

    def __init__(self, model: Any) -> None:
        self._model: Any = model
        parameters = inspect.signature(model.forward).parameters
        self._cache_name = next(name for name in CACHE_NAMES if name in parameters)
        self._takes_positions = "position_ids" in parameters
        self._options: dict[str, Any] = {"use_cache": True}
        if "logits_to_keep" in parameters:
            self._options["logits_to_keep"] = 1
        self._choices = Choices()
        self._logits = torch.empty(0)
        self._cache: Cache | None = None
        self._lengths: list[int] = []
        self._positions: torch.Tensor | None = None
        """[…, rows, 1]: of each row's last token."""
        cache = self._new_cache()
        self.splits_prompts = isinstance(cache, BatchCache) and not cache.recurrent
        self.batches = isinstance(cache, BatchCache)
        alone = self._trial([4])
        self.splits_prompts = self.splits_prompts and _alike(alone, self._trial([2, 2]))
        self.batches = self.batches and _alike(alone, self._trial([4], beside=True))

    @property
    def columns(self) -> int:
        return max(self._lengths, default=0)

    @property
    def cache_bytes(self) -> int:
        """Of the batch's keys and values. May be called from another thread."""
        cache = self._cache
        return cache.nbytes if isinstance(cache, BatchCache) else 0

    def start(self, jobs: Sequence[PromptJob]) -> Prompts:
        return self._started([job.ids for job in jobs], jobs[0].inputs)

    def prefill(self, prompts: Prompts, columns: int) -> bool:
        with self._computing():
            if prompts.done == 0 and self._takes_positions:
                prompts.positions = self._model._prepare_position_ids_for_generation(  # noqa: SLF001 – M-RoPE's are there
                    prompts.ids, {"attention_mask": prompts.mask, **prompts.inputs}
                )
            piece = slice(prompts.done, prompts.done + columns)
            positions = None if prompts.positions is None else prompts.positions[..., piece]
            self._logits = self._forward(
                prompts.ids[:, piece], prompts.cache, prompts.mask[:, : piece.stop], positions, prompts.inputs
            )
        prompts.done = piece.stop
        return prompts.done == prompts.ids.shape[1]

    def join(self, prompts: Prompts) -> None:
        """An empty batch takes the prompts' cache as it is."""
        last = None if prompts.positions is None else prompts.positions[..., -1:]
        if not self._lengths:
            self._cache, self._positions = prompts.cache, last
        else:
            assert isinstance(self._cache, BatchCache) and isinstance(prompts.cache, BatchCache)
            self._cache.join(prompts.cache)
            if last is not None and self._positions is not None:
                self._positions = torch.cat([self._positions, last], dim=-2)
        self._lengths = self._lengths + prompts.lengths

    def decode(self, ids: Sequence[int]) -> None:
        with self._computing():
            self._lengths = [length + 1 for length in self._lengths]
            if self._positions is not None:
                self._positions = self._positions + 1
            column = torch.tensor(ids, device=self._model.device)[:, None]
            mask = _mask(self._lengths, self.columns, column.device)
            self._logits = self._forward(column, self._cache, mask, self._positions)

    def choose(self, samplers: Sequence[TokenSampler]) -> None:
        with self._computing():
            self._choices.choose(self._logits, samplers)

    def keep(self, rows: Sequence[int]) -> None:
        self._lengths = [self._lengths[row] for row in rows]
        if not rows:
            self._cache = self._positions = None
            return
        assert isinstance(self._cache, BatchCache)
        self._cache.keep(list(rows), self.columns)
        if self._positions is not None:
            self._positions = self._positions[..., list(rows), :]

    def close(self) -> None:
        """Free the model. Nothing else may be called then."""
        self._model = self._cache = self._positions = None
        self._logits = torch.empty(0)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _started(self, sequences: Sequence[list[int]], inputs: Mapping[str, Any]) -> Prompts:
        lengths = list(map(len, sequences))
        columns = max(lengths)
        ids = torch.tensor([[0] * (columns - len(one)) + one for one in sequences], device=self._model.device)
        fitted = {name: self._fitted(name, value, columns) for name, value in inputs.items()}
        return Prompts(self._new_cache(), lengths, ids, _mask(lengths, columns, ids.device), None, fitted)

    def _trial(self, pieces: Sequence[int], *, beside: bool = False) -> torch.Tensor:
        """Logits [vocabulary] after a prompt that is computed in these pieces and a token; `beside` a longer one, which
        it joins. They should always be the same: a model may keep in its modules what belongs into the cache.
        """
        if beside:
            self._join_trial([7], range(5, 12))
            self.decode([4])
        self._join_trial(pieces, range(3, 3 + sum(pieces)))
        self.decode([4] * len(self._lengths))
        logits = self._logits[-1]
        self.keep([])
        return logits

    def _join_trial(self, pieces: Sequence[int], ids: Sequence[int]) -> None:
        prompts = self._started([list(ids)], {})
        for columns in pieces:
            self.prefill(prompts, columns)
        self.join(prompts)

    def _new_cache(self) -> Cache:
        """Ours, in which sequences can be joined, or the library's own where the model keeps what can't be."""
        config = self._model.config.get_text_config(decoder=True)
        try:
            return BatchCache(config)
        except ValueError:
            return DynamicCache(config=config)

    def _fitted(self, name: str, value: Any, columns: int) -> Any:
        """An input on the model's device; kinds of tokens also for those that were generated before, which are text."""
        if not isinstance(value, torch.Tensor):
            return value
        if value.is_floating_point():
            return value.to(self._model.device, self._model.dtype)
        if name.endswith("token_type_ids"):
            value = torch.nn.functional.pad(value, (0, columns - value.shape[1]))
        return value.to(self._model.device)

    def _forward(
        self,
        ids: torch.Tensor,
        cache: Cache | None,
        mask: torch.Tensor,
        positions: torch.Tensor | None,
        inputs: Mapping[str, Any] | None = None,
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last column, in float32. `inputs`: of prompts; None: of a step."""
        given = {} if positions is None else {"position_ids": positions}
        prepared = self._model.prepare_inputs_for_generation(
            ids,
            attention_mask=mask,
            is_first_iteration=inputs is not None,
            **{self._cache_name: cache},
            **given,
            **self._options,
            **(inputs or {}),
        )
        logits: torch.Tensor = self._model(**prepared, return_dict=True).logits
        return logits[:, -1].float()

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """The model's own errors as DecodeFailed."""
        try:
            with torch.inference_mode():
                yield
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise DecodeFailed(f"the GPU's memory is full; a smaller kv_cells needs less: {error}") from error
        except (RuntimeError, IndexError, ValueError, TypeError) as error:
            raise DecodeFailed(f"the model failed: {error}") from error


def _alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two rows of logits differ by no more than rounding does."""
    return bool((one - other).abs().max() <= ROUNDING * one.std())


def _mask(lengths: Sequence[int], columns: int, device: torch.device) -> torch.Tensor:
    """[rows, columns]: 1 where a right-aligned row has a token."""
    starts = columns - torch.tensor(lengths, device=device)
    return (torch.arange(columns, device=device) >= starts[:, None]).long()
