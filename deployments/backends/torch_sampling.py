"""Choosing the next tokens of a batch by torch: llama.cpp's samplers in its order, all rows at once."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from deployments.backends.base import Sampling, Token, TokenLogprob
from deployments.backends.hf_vocab import HfVocab
from deployments.errors import EngineError, InvalidRequest, MantaError, UnsupportedParameter
from deployments.text.constraint import TokenConstraint

SEEDS = 2**64


class TorchSampler:
    """One request's choices, and what they depend on: penalties' memory, random state, constraint.

    Implements `jobs.TokenSampler`. The work is done by `Choices`, for a whole batch.
    """

    def __init__(
        self,
        vocab: HfVocab,
        ends: frozenset[int],
        sampling: Sampling,
        prompt: Sequence[int],
        *,
        top_logprobs: int | None = None,
        constraint: TokenConstraint | None = None,
    ) -> None:
        """`ends`: end-of-generation tokens. Raises UnsupportedParameter for mirostat."""
        if sampling.mirostat and sampling.temperature > 0:
            raise UnsupportedParameter("the transformers backend has no mirostat").at("mirostat")
        self.sampling = sampling
        self._vocab = vocab
        self._ends = ends
        self._top_logprobs = top_logprobs
        self._constraint = constraint
        self._biases = dict(sampling.logit_bias)
        if sampling.ignore_eos:
            self._biases |= dict.fromkeys(ends, -np.inf)
        self._seen = list(prompt) if _has_penalties(sampling) else []
        self._random = np.random.default_rng(None if sampling.seed is None else sampling.seed % SEEDS)
        self._chosen: int | MantaError = -1
        self._scores: torch.Tensor | None = None
        """Log-probabilities [vocabulary] before any sampler, of the last logits."""

    @property
    def finished(self) -> bool:
        return self._constraint is not None and self._constraint.finished

    def adjust(self, logits: torch.Tensor) -> None:
        """Note the scores of a row [vocabulary], then change it in place: constraint, biases, penalties.

        What goes wrong is raised by `next`, for this request alone.
        """
        try:
            self._scores = None if self._top_logprobs is None else torch.log_softmax(logits, 0)
            if self._constraint is not None:
                forbidden = torch.from_numpy(self._constraint.forbidden(logits.shape[0]))
                logits.masked_fill_(forbidden.to(logits.device), -torch.inf)
            if self._biases:
                ids = torch.tensor(list(self._biases), device=logits.device)
                logits[ids] += torch.tensor(list(self._biases.values()), device=logits.device)
            if self._seen:
                self._penalise(logits)
            self._chosen = -1
        except MantaError as error:
            self._chosen = error

    def draw(self) -> float:
        """A random number in [0, 1), one for each token."""
        return float(self._random.random())

    def take(self, token: int, *, possible: bool) -> None:
        """`token` was chosen for the row that `adjust` was given last."""
        if isinstance(self._chosen, int):
            self._chosen = token if possible else EngineError("there is no token to choose")

    def next(self, row: int) -> Token | None:
        chosen = self._chosen
        if isinstance(chosen, MantaError):
            raise chosen
        if chosen in self._ends:
            return None
        self._accept(chosen)
        return Token(chosen, self._vocab.piece(chosen), self._logprob(chosen))

    def replay(self, ids: Sequence[int]) -> None:
        """Take `ids` as already chosen. Raises InvalidRequest at `resume` if the constraint doesn't allow them."""
        try:
            for token in ids:
                self.draw()
                self._accept(token)
        except EngineError as error:
            raise InvalidRequest(f"`resume` does not match the constraint: {error.message}").at("resume") from error

    def close(self) -> None:
        self._constraint = self._scores = None

    def _accept(self, token: int) -> None:
        if _has_penalties(self.sampling):
            self._seen.append(token)
        if self._constraint is not None:
            self._constraint.accept(token)

    def _penalise(self, logits: torch.Tensor) -> None:
        """As llama.cpp's `penalties` sampler: repetition as in CTRL (arXiv 1909.05858), the others as OpenAI's."""
        sampling = self.sampling
        last_n = len(self._seen) if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        counts = Counter(self._seen[max(0, len(self._seen) - last_n) :])
        ids = torch.tensor(list(counts), device=logits.device)
        times = torch.tensor(list(counts.values()), device=logits.device)
        own = logits[ids]
        own = torch.where(own > 0, own / sampling.repeat_penalty, own * sampling.repeat_penalty)
        logits[ids] = own - times * sampling.frequency_penalty - sampling.presence_penalty

    def _logprob(self, token: int) -> TokenLogprob | None:
        if self._scores is None:
            return None
        count = min(self._top_logprobs or 0, self._scores.shape[0])
        values, ids = torch.topk(self._scores, count)
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        top = [TokenLogprob(other, self._vocab.name(other), value) for other, value in pairs]
        return TokenLogprob(token, self._vocab.name(token), float(self._scores[token]), top)


class Choices:
    """Chooses for the rows of a batch what their samplers then hand out."""

    def choose(self, logits: torch.Tensor, samplers: Sequence[Any]) -> None:
        """`logits` [rows, vocabulary] in float32, one row for each TorchSampler; changed in place."""
        for row, sampler in zip(logits, samplers, strict=True):
            sampler.adjust(row)
        draws = [sampler.draw() for sampler in samplers]
        ids, possible = select(logits, [sampler.sampling for sampler in samplers], draws)
        for sampler, token, can in zip(samplers, ids, possible, strict=True):
            sampler.take(token, possible=can)


def select(logits: torch.Tensor, samplings: Sequence[Sampling], draws: Sequence[float]) -> tuple[list[int], list[bool]]:
    """For each row of logits [rows, vocabulary] a token, and whether any was possible. `draws`: random numbers."""
    values, ids = candidates(logits, samplings)
    possible: list[bool] = torch.isfinite(values.amax(1)).tolist()
    if ids.shape[1] > 1:
        ids = ids.gather(1, _draw(values, samplings, draws))
    return ids[:, 0].tolist(), possible


def candidates(logits: torch.Tensor, samplings: Sequence[Sampling]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and ids [rows, candidates], best first; -inf where a row's settings leave a candidate out.

    In llama.cpp's order: top_k, typical_p, top_p, min_p. A greedy row has one.
    """

    def column(numbers: Sequence[float]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=logits.dtype, device=logits.device)[:, None]

    size = logits.shape[1]
    asked = [sampling.top_k if sampling.temperature > 0 else 1 for sampling in samplings]
    counts = [min(count, size) if count > 0 else size for count in asked]
    values, ids = torch.topk(logits, max(counts))
    ranks = torch.arange(values.shape[1], device=values.device)
    values = values.masked_fill(ranks >= column(counts), -torch.inf)
    for name, neutral, left_out in _FILTERS:
        limits = [getattr(sampling, name) for sampling in samplings]
        if any(limit != neutral for limit in limits):
            values = values.masked_fill(left_out(values, column(limits)), -torch.inf)
    return values, ids


def _untypical(values: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Locally typical sampling (arXiv 2202.00666): all but those whose surprise is nearest to the distribution's
    entropy, until their probabilities exceed the limit."""
    logs = values.log_softmax(1)
    chances = logs.exp()
    entropy = -(chances * logs.masked_fill(chances == 0, 0)).sum(1, keepdim=True)
    distance = (-logs - entropy).abs()
    order = distance.argsort(dim=1, stable=True)
    ordered = chances.gather(1, order)
    before = ordered.cumsum(1) - ordered
    return torch.empty_like(before, dtype=torch.bool).scatter_(1, order, before > limits) & (limits < 1)


def _beyond_nucleus(values: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Those after the ones whose probabilities reach the limit (arXiv 1904.09751)."""
    chances = values.softmax(1)
    before = chances.cumsum(1) - chances
    return (before >= limits) & (limits < 1) & (before > 0)


def _unlikely(values: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Those less likely than the limit times the best one (arXiv 2407.01082)."""
    chances = values.softmax(1)
    return chances < limits * chances.amax(1, keepdim=True)


_FILTERS: Sequence[tuple[str, float, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]]] = (
    ("typical_p", 1.0, _untypical),
    ("top_p", 1.0, _beyond_nucleus),
    ("min_p", 0.0, _unlikely),
)
"""Field of Sampling, the value with which it does nothing, and what it leaves out of logits [rows, candidates] by each
row's value [rows, 1]."""


def _draw(values: torch.Tensor, samplings: Sequence[Sampling], draws: Sequence[float]) -> torch.Tensor:
    """Where [rows, 1] each row's random number falls among its candidates; the first one where it is greedy."""
    temperatures = [sampling.temperature if sampling.temperature > 0 else 1.0 for sampling in samplings]
    scale = torch.tensor(temperatures, dtype=torch.float64, device=values.device)[:, None]
    sums = (values.double() / scale).softmax(1).cumsum(1)
    points = torch.tensor(draws, dtype=torch.float64, device=values.device)[:, None] * sums[:, -1:]
    return (sums > points).byte().argmax(1, keepdim=True)


def _has_penalties(sampling: Sampling) -> bool:
    neutral = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (1.0, 0.0, 0.0)
    return sampling.repeat_last_n != 0 and not neutral
