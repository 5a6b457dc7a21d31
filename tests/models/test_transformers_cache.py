"""Rows that join and leave, in layers without a model."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from deployments.backends.transformers_cache import ROOM, BatchCache, PaddedLayer  # noqa: E402

HEADS, WIDTH = 2, 3


def columns(rows: int, count: int, start: float) -> Any:
    """Keys [rows, HEADS, count, WIDTH], each number another one."""
    numbers = torch.arange(rows * HEADS * count * WIDTH, dtype=torch.float32)
    return (numbers + start).reshape(rows, HEADS, count, WIDTH)


def layer(keys: Any) -> PaddedLayer:
    made = PaddedLayer()
    made.update(keys, -keys)
    return made


def check(made: PaddedLayer, keys: Any) -> None:
    assert made.keys is not None
    assert made.values is not None
    assert torch.equal(made.keys, keys)
    assert torch.equal(made.values, -keys)
    assert made.get_seq_length() == keys.shape[2]
    assert made.get_mask_sizes(1) == (keys.shape[2] + 1, 0)


def test_steps_append_beyond_the_room() -> None:
    expected = columns(2, 3, 0)
    made = layer(expected)
    for step in range(ROOM + 5):
        new = columns(2, 1, 1000 * step)
        made.update(new, -new)
        expected = torch.cat([expected, new], dim=2)
    check(made, expected)


def test_bytes_with_the_room_in_reserve() -> None:
    made = layer(columns(2, 3, 0))
    assert PaddedLayer().nbytes == 0
    made.update(columns(2, 1, 0), columns(2, 1, 0))
    assert made.nbytes == 2 * 4 * 2 * HEADS * (3 + ROOM) * WIDTH  # keys and values, float32, 2 rows


def test_a_piece_longer_than_the_room() -> None:
    first, second = columns(1, 2, 0), columns(1, 3 * ROOM, 50)
    made = layer(first)
    made.update(second, -second)
    check(made, torch.cat([first, second], dim=2))


@pytest.mark.parametrize(("own", "others"), [(5, 2), (2, 5), (3, 3)])
def test_rows_are_joined_right_aligned(own: int, others: int) -> None:
    above, below = columns(1, own, 1), columns(2, others, 100)
    made = layer(above)
    made.join(layer(below))
    longest = max(own, others)
    padded = [torch.nn.functional.pad(part, (0, 0, longest - part.shape[2], 0)) for part in (above, below)]
    check(made, torch.cat(padded))


def test_rows_leave_and_the_batch_is_cut_to_the_longest() -> None:
    keys = columns(3, 6, 1)
    made = layer(keys)
    made.keep([0, 2], 4)
    check(made, keys[[0, 2], :, 2:])
    made.keep([0, 1], 3)
    check(made, keys[[0, 2], :, 3:])
    new = columns(2, 1, 500)
    made.update(new, -new)
    check(made, torch.cat([keys[[0, 2], :, 3:], new], dim=2))


def config(**fields: Any) -> Any:
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, **fields}
    return transformers.AutoConfig.for_model("lfm2", layer_types=["conv", "full_attention"], **sizes)


def test_states_join_and_leave_with_the_rows() -> None:
    caches = []
    for rows, start in ((1, 0.0), (2, 10.0)):
        cache = BatchCache(config())
        state = torch.arange(rows * 4, dtype=torch.float32).reshape(rows, 2, 2) + start
        cache.update_conv_state(state, 0)
        keys = columns(rows, 3, start)
        cache.update(keys, -keys, 1)
        caches.append(cache)
    cache, other = caches
    assert cache.recurrent
    cache.join(other)
    cache.keep([0, 2], 3)
    states = cache.layers[0].conv_states[0]
    assert states.tolist() == [[[0, 1], [2, 3]], [[14, 15], [16, 17]]]
    assert cache.get_seq_length(1) == 3
    assert cache.layers[1].keys.shape[0] == 2


def test_a_model_of_attention_keeps_no_state() -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2}
    assert not BatchCache(transformers.AutoConfig.for_model("mistral", sliding_window=4, **sizes)).recurrent


def test_layers_that_cannot_be_joined_are_said() -> None:
    sizes = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 4}
    with pytest.raises(ValueError, match="can't be joined"):
        BatchCache(transformers.AutoConfig.for_model("falcon_h1", **sizes))
