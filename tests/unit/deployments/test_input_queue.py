"""What runs next: batches of about the same length, and everybody's turn."""

import random

import pytest

from deployments.backends.base import Tokens
from deployments.input_queue import PADDING_SHARE, Input, InputQueue, Owner

BATCH_TOKENS = 512


def inputs(lengths: list[int], owner: Owner) -> list[Input[int]]:
    return [Input(Tokens([0] * length), owner, place) for place, length in enumerate(lengths)]


def queue(*lines: list[Input[int]]) -> InputQueue[int]:
    waiting: InputQueue[int] = InputQueue(BATCH_TOKENS)
    for line in lines:
        waiting.push(line)
    return waiting


def drained(waiting: InputQueue[int]) -> list[list[Input[int]]]:
    batches = []
    while waiting:
        batches.append(waiting.take_batch())
    return batches


def padded(batch: list[Input[int]]) -> int:
    return max(item.length for item in batch) * len(batch)


def test_nothing_waits() -> None:
    assert queue().take_batch() == []


@pytest.mark.parametrize("seed", range(5))
def test_every_input_runs_once_in_batches_within_their_tokens_and_padding(seed: int) -> None:
    rng = random.Random(seed)
    lines = [
        inputs([rng.choice([1, 5, 8, 60, 64, 256, 700, rng.randint(1, 600)]) for _ in range(size)], Owner(tenant))
        for size, tenant in [(1, "a"), (1, "b"), (300, "a"), (40, "c"), (1, "c"), (2000, "b")]
    ]
    batches = drained(queue(*lines))
    ran = [item for batch in batches for item in batch]
    assert len(ran) == sum(map(len, lines))
    assert set(ran) == {item for line in lines for item in line}
    for batch in batches:
        assert len(batch) == 1 or padded(batch) <= BATCH_TOKENS
        assert padded(batch) - sum(item.length for item in batch) <= BATCH_TOKENS // PADDING_SHARE


def test_a_big_request_of_mixed_lengths_wastes_little() -> None:
    """Against the same inputs, sorted as a whole and cut into batches."""
    rng = random.Random(1)
    lengths = [rng.randint(4, 128) for _ in range(2000)]
    batches = drained(queue(inputs(lengths, Owner())))
    assert sum(map(padded, batches)) <= 1.03 * sum(lengths)
    assert len(batches) <= 1.15 * sum(lengths) / BATCH_TOKENS


def test_clients_with_one_input_each_run_together() -> None:
    lines = [inputs([8], Owner(f"tenant {i % 3}")) for i in range(64)]
    assert [len(batch) for batch in drained(queue(*lines))] == [64]


def test_small_requests_overtake_the_rest_of_a_big_one() -> None:
    waiting = queue(inputs([64] * 10_000, Owner("big")))
    waiting.take_batch()
    small = [inputs([length], Owner("small")) for length in (64, 63, 10, 128)]
    for line in small:
        waiting.push(line)
    for _ in range(2 * len(small)):
        waiting.take_batch()
    assert all(line[0].gone for line in small)
    assert len(waiting) > 9000


def test_requests_of_one_tenant_take_turns_too() -> None:
    waiting = queue(inputs([64] * 1000, Owner("a")), inputs([20] * 3, Owner("a")))
    assert [batch[0].length for batch in (waiting.take_batch(), waiting.take_batch())] == [64, 20]


def test_a_tenant_with_many_requests_does_not_put_off_another() -> None:
    waiting = queue(*(inputs([64 + i], Owner("crowd")) for i in range(200)), inputs([500], Owner("alone")))
    waiting.take_batch()
    assert waiting.take_batch()[0].length == 500


def test_a_long_input_is_not_put_off_by_short_ones_that_keep_coming() -> None:
    waiting = queue(inputs([8] * 200, Owner("a")))
    (long,) = inputs([512], Owner("a"))
    waiting.push([long])
    for _ in range(3):
        waiting.push(inputs([8] * 200, Owner("a")))
        waiting.take_batch()
    assert long.gone


def test_a_requests_oldest_input_runs_at_its_turn() -> None:
    """So pieces of a big request end about in order, whatever the lengths."""
    rng = random.Random(2)
    line = inputs([rng.randint(1, 256) for _ in range(1000)], Owner())
    waiting = queue(line)
    while waiting:
        oldest = next(item for item in line if not item.gone)
        assert oldest in waiting.take_batch()


def test_who_shares_a_batch_is_fair() -> None:
    """A request with many inputs of the length leaves room for everyone whose input is a bit shorter."""
    waiting = queue(inputs([64] * 1000, Owner("a")), *(inputs([62], Owner("a")) for _ in range(7)))
    assert sorted(item.length for item in waiting.take_batch()) == [62] * 7 + [64]


def test_discarded_inputs_are_gone_at_once() -> None:
    owner = Owner()
    gone, kept = inputs([8] * 100, owner), inputs([8] * 3, owner)
    waiting = queue(gone, kept)
    waiting.discard(gone)
    waiting.discard(gone)
    assert len(waiting) == 3
    assert waiting.take_batch() == kept
    assert not waiting._tenants


def test_an_owner_has_started_when_inputs_of_it_are_taken() -> None:
    owners = Owner(), Owner()
    waiting = queue(inputs([8], owners[0]), inputs([100], owners[1]))
    waiting.take_batch()
    assert [owner.started for owner in owners] == [True, False]


def test_the_work_of_a_batch_does_not_grow_with_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in lines looked at: 20,000 waiting requests cost no more than some hundred."""
    from deployments import input_queue

    looked_at = 0
    closest = input_queue._Line.closest

    def counting(line: "input_queue._Line[int]", *args: int) -> list[Input[int]]:
        nonlocal looked_at
        looked_at += 1
        return closest(line, *args)

    monkeypatch.setattr(input_queue._Line, "closest", counting)
    waiting = queue(*(inputs([1 + i % 512], Owner()) for i in range(20_000)))
    longest = waiting.take_batch()[0].length
    assert looked_at <= 2 * BATCH_TOKENS // longest + input_queue.LOOKED_AT
