"""From vLLM's outputs to token groups, on outputs as vLLM makes them."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from deployments.backends.base import TokenGroup
from deployments.backends.hf_vocab import HfVocab
from deployments.backends.vllm_gauges import Gauges
from deployments.backends.vllm_outputs import GroupMaker
from deployments.errors import EngineError

END = 0


class Letters:
    """Token 1 is `a`, 2 is `b`, …; 0 is a control token."""

    def piece(self, token: int) -> bytes:
        return bytes([96 + token]) if token else b""

    def name(self, token: int) -> bytes:
        return self.piece(token) or b"<end>"


@dataclass
class Completion:
    token_ids: list[int]
    finish_reason: str | None = None
    logprobs: list[dict[int, Any]] | None = None


@dataclass
class Output:
    outputs: list[Completion]
    prompt_token_ids: list[int] = field(default_factory=lambda: [1, 2, 3])
    num_cached_tokens: int | None = 2


def maker(top: int | None = None, *, has_media: bool = False) -> GroupMaker:
    return GroupMaker(cast("HfVocab", Letters()), top, has_media=has_media, queue_seconds=0.5)


def group(completion: Completion, **options: Any) -> TokenGroup:
    return maker(**options).group(Output([completion]))


def test_the_token_that_ends_the_answer_is_no_part_of_it() -> None:
    made = group(Completion([1, 2, END], "stop"))
    assert ([token.text for token in made.tokens], made.finish_reason) == ([b"a", b"b"], "stop")


def test_the_last_token_before_a_limit_is_part_of_it() -> None:
    made = group(Completion([1, 2], "length"))
    assert ([token.text for token in made.tokens], made.finish_reason) == ([b"a", b"b"], "length")


def test_the_first_group_alone_tells_of_the_prompt_and_the_wait() -> None:
    making = maker(has_media=True)
    first, second = (making.group(Output([Completion([1])])) for _ in range(2))
    assert (first.cached_tokens, first.prompt_tokens, first.queue_seconds) == (2, 3, 0.5)
    assert (second.cached_tokens, second.prompt_tokens, second.queue_seconds) == (0, None, None)
    assert group(Completion([1])).prompt_tokens is None, "the chat core has counted a prompt of text"


@pytest.mark.parametrize("top", [0, 1, 2])
def test_logprobs_are_ranked_and_as_many_as_asked_for(top: int) -> None:
    row = {
        token: SimpleNamespace(logprob=logprob, rank=rank)
        for token, logprob, rank in ((3, -2.0, 3), (1, -0.5, 1), (2, -1.0, 2))
    }
    made = group(Completion([3], logprobs=[row]), top=top).tokens[0].logprob
    assert made is not None
    assert (made.id, made.text, made.logprob) == (3, b"c", -2.0)
    assert [(one.id, one.logprob) for one in made.top] == [(1, -0.5), (2, -1.0)][:top]


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_an_engine_that_gives_up_is_an_error(reason: str) -> None:
    with pytest.raises(EngineError, match=reason):
        group(Completion([], reason))


def test_gauges_are_in_tokens_and_zero_when_nothing_runs() -> None:
    gauges = Gauges()
    cache = SimpleNamespace(num_gpu_blocks=10, block_size=16)
    gauges.logger(SimpleNamespace(cache_config=cache)).record(SimpleNamespace(kv_cache_usage=0.25), None)
    assert gauges.cells(idle=False) == {"kv_cells": 160, "kv_cells_used": 40}
    assert gauges.cells(idle=True)["kv_cells_used"] == 0
