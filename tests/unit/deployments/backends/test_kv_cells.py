"""Cells against a plain model: each sequence a list of cell numbers."""

import random

from deployments.backends.kv_cells import KVCells

SEQUENCES = 5


def test_a_shared_prefix_is_counted_once() -> None:
    cells = KVCells(100, SEQUENCES)
    cells.extend(0, 30)
    cells.copy(0, 1, 20)
    cells.extend(1, 5)
    assert (cells.used, cells.free, cells.length(1)) == (35, 65, 25)


def test_shared_cells_outlive_their_first_owner() -> None:
    cells = KVCells(100, SEQUENCES)
    cells.extend(0, 30)
    cells.copy(0, 1, 20)
    cells.trim(0, 0)
    assert cells.used == 20
    cells.trim(1, 0)
    assert cells.used == 0


def test_held_counts_what_eviction_of_the_others_would_leave() -> None:
    cells = KVCells(100, SEQUENCES)
    cells.extend(0, 30)
    cells.copy(0, 1, 20)
    cells.extend(2, 7)
    assert cells.held([1]) == 20
    assert cells.held([0, 1]) == 30
    assert cells.held([2], prefix=(0, 25)) == 32
    assert cells.held([1], prefix=(0, 25)) == 25


def test_random_operations_agree_with_the_plain_model() -> None:
    rng = random.Random(4)
    for _ in range(50):
        cells, plain, fresh = KVCells(10_000, SEQUENCES), [list[int]() for _ in range(SEQUENCES)], iter(range(10**9))
        for _ in range(60):
            one, other = rng.sample(range(SEQUENCES), 2)
            length = rng.randint(0, len(plain[one]))
            match rng.choice(("extend", "trim", "copy")):
                case "extend":
                    count = rng.randint(1, 40)
                    cells.extend(one, count)
                    plain[one] += [next(fresh) for _ in range(count)]
                case "trim":
                    cells.trim(one, length)
                    del plain[one][length:]
                case "copy":
                    cells.trim(other, 0)
                    cells.copy(one, other, length)
                    plain[other] = plain[one][:length]
            assert cells.used == len(set().union(*plain))
            assert [cells.length(s) for s in range(SEQUENCES)] == [len(owned) for owned in plain]
            some = rng.sample(range(SEQUENCES), 2)
            prefix = rng.randrange(SEQUENCES), rng.randint(0, 50)
            held = set(plain[some[0]]) | set(plain[some[1]]) | set(plain[prefix[0]][: prefix[1]])
            assert cells.held(some, prefix) == len(held)
