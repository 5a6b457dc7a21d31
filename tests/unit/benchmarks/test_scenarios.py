"""Prompts are the same for every server and never the same twice."""

from itertools import chain

from benchmarks.scenarios import SCENARIOS, body


def test_prompts_are_reproducible() -> None:
    for scenario in SCENARIOS:
        assert scenario.prompts(1) == scenario.prompts(1)
        assert [len(wave) for wave in scenario.prompts(1)] == [scenario.streams] * scenario.repeats


def test_prompts_have_no_common_beginning() -> None:
    prompts = [p for s in SCENARIOS for number in range(3) for p in chain.from_iterable(s.prompts(number))]
    assert len({tuple(prompt.split()[:4]) for prompt in prompts}) == len(prompts)


def test_answers_are_greedy_and_of_fixed_length() -> None:
    request = body("Hello", "m", 64)
    assert request["temperature"] == 0
    assert request["max_tokens"] == request["min_tokens"] == 64
    assert request["ignore_eos"] is True
