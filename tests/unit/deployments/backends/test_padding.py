"""Inputs of different lengths as one rectangle."""

import numpy as np

from deployments.backends.base import Tokens
from deployments.backends.padding import Padding, pad


def test_short_inputs_are_filled_up_on_the_right() -> None:
    batch = pad([Tokens([5, 6, 7]), Tokens([8])], Padding(id=9))
    assert batch.ids.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert batch.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.types.tolist() == [[0, 0, 0], [0, 0, 0]]
    assert batch.ids.dtype == batch.mask.dtype == batch.types.dtype == np.int64


def test_or_on_the_left() -> None:
    batch = pad([Tokens([5, 6, 7]), Tokens([8])], Padding(id=9, left=True))
    assert batch.ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert batch.mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_token_types_begin_with_the_second_text_and_leave_padding_out() -> None:
    batch = [Tokens([1, 2, 3, 4], second=2), Tokens([1, 2, 3], second=1), Tokens([1])]
    assert pad(batch, Padding(second_type=1)).types.tolist() == [[0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]
    left = pad(batch, Padding(second_type=1, left=True))
    assert left.types.tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]


def test_models_without_token_types() -> None:
    assert pad([Tokens([1, 2], second=1)], Padding(second_type=0)).types.tolist() == [[0, 0]]
