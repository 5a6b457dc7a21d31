"""Positions behind pictures of an M-RoPE model."""

from deployments.backends.mrope import SequencePositions


def test_without_pictures_the_position_is_the_number_of_items() -> None:
    positions = SequencePositions(2)
    assert positions.of(0, 17) == 17
    assert positions.lags.tolist() == [0, 0]


def test_a_picture_of_many_rows_takes_few_positions() -> None:
    positions = SequencePositions(2)
    positions.jump(1, 110, 20)  # ten tokens, a hundred rows, ten positions
    positions.jump(1, 230, 50)
    assert [positions.of(1, length) for length in (10, 110, 120, 230, 231)] == [10, 20, 30, 50, 51]
    assert positions.lags.tolist() == [0, 180]


def test_cut_and_shared_sequences_keep_what_is_left_of_them() -> None:
    positions = SequencePositions(3)
    positions.jump(0, 110, 20)
    positions.jump(0, 230, 50)
    positions.copy(0, 1, 229)
    assert (positions.of(1, 150), positions.lags[1]) == (60, 90)
    saved = positions.get(0)
    positions.trim(0, 10)
    assert (positions.of(0, 10), positions.lags[0]) == (10, 0)
    positions.put(2, saved)
    assert positions.of(2, 230) == 50
