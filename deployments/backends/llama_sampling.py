"""Choosing a request's next token: llama.cpp's sampler chain, grammar, constraint's mask, logprobs."""

import ctypes
import random
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from deployments.backends.base import Sampling, Token, TokenLogprob
from deployments.backends.llama_decoder import LlamaDecoder
from deployments.backends.llama_library import complaints, without_release
from deployments.backends.llama_vocab import LlamaVocab
from deployments.errors import EngineError, InvalidRequest
from deployments.text.constraint import TokenConstraint

SamplerPointer = Any
"""A `llama_sampler *` of ctypes; NULL is false."""

UINT32 = 0xFFFFFFFF
MIROSTAT_CANDIDATES = 100
"""m of mirostat 1: how many of the top tokens estimate its parameters; the paper's value."""
MAX_NESTING, MAX_RULES = 1000, 5000
"""Of a grammar. llama.cpp parses by recursion: 20,000 nested groups overflow the stack and end the process."""

_sample = without_release(llama_cpp.llama_sampler_sample)
_apply = without_release(llama_cpp.llama_sampler_apply)
_accept = without_release(llama_cpp.llama_sampler_accept)


class LlamaSampler:
    """One request's choices, and what they depend on: penalties' memory, random state, grammar, constraint."""

    def __init__(
        self,
        decoder: LlamaDecoder,
        vocab: LlamaVocab,
        sampling: Sampling,
        prompt: Sequence[int],
        *,
        context_size: int,
        top_logprobs: int | None = None,
        grammar: str | None = None,
        constraint: TokenConstraint | None = None,
    ) -> None:
        """Raises InvalidRequest at `grammar`."""
        self._decoder = decoder
        self._vocab = vocab
        self._top_logprobs = top_logprobs
        self._constraint = constraint
        self._grammar = _grammar(vocab, grammar) if grammar else None
        self._chain = _chain(vocab, sampling, context_size)
        self._candidates = _Candidates(vocab.size) if self._grammar else None
        if self._chain is not None and _has_penalties(sampling):
            last_n = context_size if sampling.repeat_last_n < 0 else sampling.repeat_last_n
            for token in prompt[max(0, len(prompt) - last_n) :]:
                _accept(self._chain, token)

    @property
    def finished(self) -> bool:
        return self._constraint is not None and self._constraint.finished

    def next(self, row: int) -> Token | None:
        logprobs = None if self._top_logprobs is None else _log_softmax(self._decoder.logits(row))
        if self._constraint is not None:
            self._constraint.mask(self._decoder.logits(row))
        chosen = self._choose(row)
        if self._vocab.is_end(chosen):
            return None
        self._accept(chosen)
        logprob = None if logprobs is None else self._logprob(chosen, logprobs)
        return Token(chosen, self._vocab.piece(chosen), logprob)

    def replay(self, ids: Sequence[int]) -> None:
        """Take `ids` as already chosen. Raises InvalidRequest at `resume` if grammar or schema don't allow them."""
        for token in ids:
            if self._grammar is not None and not self._allowed(token):
                raise InvalidRequest(f"the grammar does not allow token {token} of `resume`").at("resume")
            if self._chain is not None:
                _accept(self._chain, token)
            self._accept(token)

    def close(self) -> None:
        for sampler in (self._chain, self._grammar):
            if sampler is not None:
                llama_cpp.llama_sampler_free(sampler)
        self._chain = self._grammar = None

    def _choose(self, row: int) -> int:
        if self._grammar is not None:
            return self._choose_by_grammar(row)
        if self._chain is None:
            return int(self._decoder.logits(row).argmax())
        return int(_sample(self._chain, self._decoder.context, row))

    def _choose_by_grammar(self, row: int) -> int:
        """Choose freely; only if the grammar rejects the choice, ask it about the whole vocabulary and choose again.

        Most choices are allowed, and a grammar takes milliseconds for a vocabulary.
        """
        assert self._candidates is not None
        logits = self._decoder.logits(row)
        chosen = self._candidates.choose(logits, self._chain)
        if not self._allowed(chosen):
            chosen = self._candidates.choose(logits, self._chain, self._grammar)
        if self._chain is not None:
            _accept(self._chain, chosen)
        return chosen

    def _allowed(self, token: int) -> bool:
        candidate = llama_cpp.llama_token_data(token, 1.0, 0.0)
        _apply(self._grammar, llama_cpp.llama_token_data_array(ctypes.pointer(candidate), 1, -1, False))
        return bool(candidate.logit > -np.inf)

    def _accept(self, token: int) -> None:
        if self._grammar is not None:
            _accept(self._grammar, token)
        if self._constraint is not None:
            self._constraint.accept(token)

    def _logprob(self, token: int, logprobs: NDArray[np.float32]) -> TokenLogprob:
        count = min(self._top_logprobs or 0, logprobs.size)
        best = np.argpartition(logprobs, -count)[-count:] if count else np.empty(0, np.intp)
        best = best[np.argsort(-logprobs[best], kind="stable")]
        top = [TokenLogprob(int(other), self._vocab.name(int(other)), float(logprobs[other])) for other in best]
        return TokenLogprob(token, self._vocab.name(token), float(logprobs[token]), top)


class _Candidates:
    """The whole vocabulary as llama.cpp's candidate array, for samplers that are applied one by one."""

    _RECORD = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

    def __init__(self, size: int) -> None:
        self._records = np.zeros(size, self._RECORD)
        self._ids = np.arange(size, dtype=np.int32)
        self._array = llama_cpp.llama_token_data_array()

    def choose(
        self, logits: NDArray[np.float32], chain: SamplerPointer | None, grammar: SamplerPointer | None = None
    ) -> int:
        """The choice of `chain` (None: the most likely) among what `grammar` allows."""
        self._records["id"] = self._ids
        self._records["logit"] = logits
        records = ctypes.cast(self._records.ctypes.data, ctypes.POINTER(llama_cpp.llama_token_data))
        self._array.data = records  # type: ignore[assignment]
        self._array.size = len(self._records)
        self._array.selected = -1
        self._array.sorted = False
        if grammar is not None:
            _apply(grammar, self._array)
            if not np.isfinite(self._records["logit"].max()):
                raise EngineError("the grammar allows no token here")
        if chain is None:
            return int(self._records["logit"].argmax())
        _apply(chain, self._array)
        return int(self._array.data[self._array.selected].id)


def _chain(vocab: LlamaVocab, sampling: Sampling, context_size: int) -> SamplerPointer | None:
    """llama.cpp's samplers in its usual order, without the neutral ones. None: the most likely token, nothing else."""
    new = llama_cpp
    links: list[SamplerPointer] = []
    biases = dict(sampling.logit_bias)
    if sampling.ignore_eos:
        biases |= dict.fromkeys(vocab.end_ids, -np.inf)
    if biases:
        pairs = (new.llama_logit_bias * len(biases))(*[new.llama_logit_bias(*pair) for pair in biases.items()])
        links.append(new.llama_sampler_init_logit_bias(vocab.size, len(biases), pairs))
    if _has_penalties(sampling):
        last_n = context_size if sampling.repeat_last_n < 0 else sampling.repeat_last_n
        penalties = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        links.append(new.llama_sampler_init_penalties(vocab.size, last_n, *penalties))
    links += _truncation_and_choice(vocab, sampling)
    if not links:
        return None
    chain = new.llama_sampler_chain_init(new.llama_sampler_chain_params(no_perf=True))
    for link in links:
        new.llama_sampler_chain_add(chain, link)
    return chain


def _truncation_and_choice(vocab: LlamaVocab, sampling: Sampling) -> list[SamplerPointer]:
    new = llama_cpp
    if sampling.temperature <= 0:
        plain = not (sampling.logit_bias or sampling.ignore_eos or _has_penalties(sampling))
        return [] if plain else [new.llama_sampler_init_greedy()]
    seed = _seed(sampling.seed)
    temperature = new.llama_sampler_init_temp(sampling.temperature)
    tau, eta = sampling.mirostat_tau, sampling.mirostat_eta
    if sampling.mirostat == 1:
        return [temperature, new.llama_sampler_init_mirostat(vocab.size, seed, tau, eta, MIROSTAT_CANDIDATES)]
    if sampling.mirostat == 2:
        return [temperature, new.llama_sampler_init_mirostat_v2(seed, tau, eta)]
    links = []
    if sampling.top_k > 0:
        links.append(new.llama_sampler_init_top_k(sampling.top_k))
    if sampling.typical_p < 1:
        links.append(new.llama_sampler_init_typical(sampling.typical_p, 1))
    if sampling.top_p < 1:
        links.append(new.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(new.llama_sampler_init_min_p(sampling.min_p, 1))
    return [*links, temperature, new.llama_sampler_init_dist(seed)]


def _has_penalties(sampling: Sampling) -> bool:
    neutral = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty) == (1.0, 0.0, 0.0)
    return sampling.repeat_last_n != 0 and not neutral


def _seed(seed: int | None) -> int:
    """32 bits. llama.cpp takes the largest number for "random": the one below stands for it."""
    if seed is None:
        return random.getrandbits(31)
    return min(seed & UINT32, UINT32 - 1)


def _grammar(vocab: LlamaVocab, text: str) -> SamplerPointer:
    depth = max(accumulate((char == "(") - (char == ")") for char in text), default=0)
    if depth > MAX_NESTING or text.count("::=") > MAX_RULES:
        raise InvalidRequest(f"the grammar has over {MAX_NESTING} nested groups or {MAX_RULES} rules").at("grammar")
    with complaints() as said:
        grammar = llama_cpp.llama_sampler_init_grammar(vocab.pointer, text.encode(), b"root")
        if not grammar:  # the parser writes its reason to stderr alone
            raise InvalidRequest(f"the grammar is not valid GBNF, or has no rule `root`. {said()}".strip()).at(
                "grammar"
            )
    return grammar


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    shifted: NDArray[np.float32] = logits - logits.max()
    shifted -= np.log(np.exp(shifted).sum(dtype=np.float64))
    return shifted
