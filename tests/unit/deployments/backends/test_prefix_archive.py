"""PrefixArchive."""

import numpy as np

from deployments.backends.prefix_archive import PrefixArchive


def state(size: int) -> np.ndarray:
    return np.zeros(size, np.uint8)


def test_the_longest_prefix_is_found_and_the_last_token_does_not_count() -> None:
    archive = PrefixArchive(100)
    archive.put([1, 2, 3], state(10))
    archive.put([1, 2, 9, 9], state(10))
    entry, length = archive.longest_prefix([1, 2, 9, 9])
    assert entry is not None
    assert (list(entry.ids), length) == ([1, 2, 9, 9], 3)
    assert archive.longest_prefix([7]) == (None, 0)


def test_a_longer_prefix_takes_the_place_of_those_it_begins_with() -> None:
    archive = PrefixArchive(100)
    archive.put([1, 2], state(10))
    archive.put([1, 2, 3], state(20))
    assert (len(archive), archive.bytes) == (1, 20)


def test_the_least_recently_archived_go_when_the_budget_is_spent() -> None:
    archive = PrefixArchive(25)
    for first in (1, 2, 3):
        archive.put([first, 0, 0], state(10))
    assert archive.longest_prefix([1, 0, 0, 0]) == (None, 0)
    assert archive.bytes == 20
    archive.put([4, 0, 0], state(26))
    assert archive.longest_prefix([4, 0, 0, 0]) == (None, 0), "larger than the whole budget"
