"""Choosing tokens by torch: the same candidates as llama.cpp's samplers leave, the right odds, no row minds another."""

import ctypes
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("llguidance")
llama_cpp = pytest.importorskip("llama_cpp")

from deployments.backends.base import Sampling  # noqa: E402
from deployments.backends.torch_sampling import Choices, TorchSampler, candidates, select  # noqa: E402
from deployments.errors import EngineError, UnsupportedParameter  # noqa: E402

SIZE = 200
OPEN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
SETTINGS = (
    OPEN,
    replace(OPEN, top_k=7),
    replace(OPEN, top_p=0.6),
    replace(OPEN, top_p=0.0),
    replace(OPEN, min_p=0.1),
    replace(OPEN, min_p=1.0),
    replace(OPEN, typical_p=0.4),
    replace(OPEN, typical_p=0.9, top_k=50),
    replace(OPEN, typical_p=0.2, top_p=0.0),
    Sampling(temperature=0.3, top_k=40, top_p=0.95, min_p=0.05, typical_p=0.8),
)


class NoVocab:
    """Tokens are numbers."""

    def piece(self, token: int) -> bytes:
        return str(token).encode()

    name = piece


def sampler(sampling: Sampling = OPEN, prompt: tuple[int, ...] = (), **fields: Any) -> TorchSampler:
    return TorchSampler(NoVocab(), frozenset({0}), sampling, prompt, **fields)  # type: ignore[arg-type]


def left_by_llama_cpp(logits: Any, sampling: Sampling) -> dict[int, float]:
    """Token → logit of what llama.cpp's truncating samplers leave."""
    data = (llama_cpp.llama_token_data * SIZE)()
    for token, logit in enumerate(logits.tolist()):
        data[token] = llama_cpp.llama_token_data(token, logit, 0.0)
    array = llama_cpp.llama_token_data_array(data, SIZE, -1, False)
    links = [
        *([llama_cpp.llama_sampler_init_top_k(sampling.top_k)] if sampling.top_k > 0 else []),
        llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1),
        llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1),
        llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1),
    ]
    for link in links:
        llama_cpp.llama_sampler_apply(link, ctypes.byref(array))
        llama_cpp.llama_sampler_free(link)
    return {array.data[place].id: array.data[place].logit for place in range(array.size)}


@pytest.mark.parametrize("seed", range(5))
def test_the_same_candidates_are_left_as_by_llama_cpp(seed: int) -> None:
    logits = torch.randn(len(SETTINGS), SIZE, generator=torch.Generator().manual_seed(seed)) * 3
    values, ids = candidates(logits, SETTINGS)
    for row, sampling in enumerate(SETTINGS):
        ours = {
            token: value for token, value in zip(ids[row].tolist(), values[row].tolist(), strict=True)
            if value > -np.inf
        }  # fmt: skip
        assert ours == pytest.approx(left_by_llama_cpp(logits[row], sampling)), sampling


def test_odds_are_those_of_the_temperature() -> None:
    logits = torch.tensor([[1.0, 3.0, 2.0]])
    count = 1000
    drawn = Counter(select(logits, [replace(OPEN, temperature=2.0)], [i / count])[0][0] for i in range(count))
    odds = (logits[0] / 2).softmax(0)
    assert [drawn[token] / count for token in range(3)] == pytest.approx(odds.tolist(), abs=2 / count)


def test_rows_do_not_mind_each_other() -> None:
    logits = torch.randn(len(SETTINGS), SIZE, generator=torch.Generator().manual_seed(1)) * 3
    draws = [0.1 * row for row in range(len(SETTINGS))]
    together, possible = select(logits, SETTINGS, draws)
    assert all(possible)
    alone = [select(logits[i : i + 1], [one], [draws[i]])[0][0] for i, one in enumerate(SETTINGS)]
    assert together == alone


def test_temperature_0_is_greedy_beside_others() -> None:
    logits = torch.randn(2, SIZE)
    ids, _ = select(logits, [Sampling(temperature=0), OPEN], [0.99, 0.99])
    assert ids[0] == logits[0].argmax()


def chosen(one: TorchSampler, logits: Any) -> int | None:
    Choices().choose(torch.tensor([logits]), [one])
    token = one.next(0)
    return None if token is None else token.id


GREEDY = Sampling(temperature=0)


def test_penalties_are_llama_cpps() -> None:
    """Of each token: its logit is divided or multiplied, then lessened by its count and by its presence."""
    both = Sampling(temperature=0, repeat_penalty=2.0, frequency_penalty=0.5, presence_penalty=0.25)
    logits = torch.tensor([0.0, 4.0, -1.0, 1.6])
    one = sampler(both, (1, 1, 2))
    one.adjust(logits)
    assert logits.tolist() == pytest.approx([0.0, 4 / 2 - 2 * 0.5 - 0.25, -1 * 2 - 0.5 - 0.25, 1.6])


def test_penalties_look_back_so_far_and_remember_what_was_chosen() -> None:
    one = sampler(Sampling(temperature=0, presence_penalty=3.0, repeat_last_n=1), (1,))
    assert [chosen(one, [0.0, 5.0, 4.0]) for _ in range(4)] == [2, 1, 2, 1]


def test_a_bias_and_ignore_eos() -> None:
    assert chosen(sampler(replace(GREEDY, logit_bias={2: 10.0})), [0.0, 5.0, 1.0]) == 2
    assert chosen(sampler(GREEDY), [9.0, 5.0, 1.0]) is None  # an end token
    assert chosen(sampler(replace(GREEDY, ignore_eos=True)), [9.0, 5.0, 1.0]) == 1


def test_a_row_without_a_token_to_choose_fails_alone() -> None:
    samplers = [sampler(replace(OPEN, logit_bias={0: -np.inf, 1: -np.inf})), sampler(GREEDY)]
    Choices().choose(torch.tensor([[1.0, 1.0], [1.0, 2.0]]), samplers)
    with pytest.raises(EngineError):
        samplers[0].next(0)
    token = samplers[1].next(1)
    assert token is not None
    assert token.id == 1


def test_a_seed_repeats_and_replay_goes_on() -> None:
    logits = [0.0] + [1.0] * 50
    seeded = replace(OPEN, seed=5, logit_bias={0: -np.inf})
    one, other = sampler(seeded), sampler(seeded)
    ids = [chosen(one, logits) for _ in range(10)]
    assert len(set(ids)) > 3
    other.replay(ids[:4])  # type: ignore[arg-type]
    assert [chosen(other, logits) for _ in range(6)] == ids[4:]


def test_logprobs_are_those_before_any_sampler() -> None:
    one = sampler(replace(GREEDY, logit_bias={1: -100.0}), top_logprobs=2)
    Choices().choose(torch.tensor([[0.0, 2.0, 1.0]]), [one])
    token = one.next(0)
    assert token is not None
    assert token.logprob is not None
    scores = torch.tensor([0.0, 2.0, 1.0]).log_softmax(0).tolist()
    assert (token.id, token.logprob.logprob) == (2, pytest.approx(scores[2]))
    assert [(top.id, top.logprob) for top in token.logprob.top] == [
        (1, pytest.approx(scores[1])),
        (2, pytest.approx(scores[2])),
    ]


def test_mirostat_is_refused_where_it_would_count() -> None:
    with pytest.raises(UnsupportedParameter):
        sampler(replace(OPEN, mirostat=2))
    sampler(replace(GREEDY, mirostat=2))
