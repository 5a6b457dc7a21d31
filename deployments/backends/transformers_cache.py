"""The KV caches of several sequences as one batch, in transformers' own `Cache`: rows join and leave between steps.

Rows are right-aligned, as `generate` pads its prompts: the newest token of every row stands in the last column, so the
library's masks, sliding windows included, hold as they are. What stands left of a shorter row is zeros.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from transformers import Cache, DynamicCache
from transformers.cache_utils import DummyLayer, DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

ROOM = 256
"""Columns in reserve when a tensor is laid out anew: so many steps copy nothing."""


class Columns:
    """A tensor [rows, heads, columns, width] that grows to the right."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self._space = tensor
        self._start, self._end = 0, tensor.shape[2]

    @property
    def nbytes(self) -> int:
        """With what is in reserve."""
        return self._space.nbytes

    @property
    def used(self) -> torch.Tensor:
        return self._space[:, :, self._start : self._end]

    def append(self, new: torch.Tensor) -> None:
        count = new.shape[2]
        if self._end + count > self._space.shape[2]:
            self._lay([self.used], room=max(count, ROOM))
        self._space[:, :, self._end : self._end + count] = new
        self._end += count

    def join(self, others: torch.Tensor) -> None:
        """Put the rows of another tensor under these."""
        self._lay([self.used, others])

    def keep(self, rows: torch.Tensor, columns: int) -> None:
        """Drop all other rows, and all but the last columns."""
        self._start = max(self._start, self._end - columns)
        if len(rows) < self._space.shape[0]:
            self._lay([self.used[rows]])

    def _lay(self, parts: list[torch.Tensor], room: int = ROOM) -> None:
        """Rows of all parts under each other, right-aligned."""
        first = parts[0]
        columns, rows = max(part.shape[2] for part in parts), sum(part.shape[0] for part in parts)
        space = first.new_zeros((rows, first.shape[1], columns + room, first.shape[3]))
        row = 0
        for part in parts:
            space[row : row + part.shape[0], :, columns - part.shape[2] : columns] = part
            row += part.shape[0]
        self._space, self._start, self._end = space, 0, columns


class PaddedLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer, as views of what has room to grow.

    A sliding window keeps all its columns, too: rows of different lengths could not be aligned otherwise.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._columns: tuple[Columns, Columns] | None = None
        """Of the keys and of the values. None: no step has been made yet."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append the columns of a step."""
        if self._columns is None:
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            self._columns = Columns(key_states), Columns(value_states)
        else:
            self._columns[0].append(key_states)
            self._columns[1].append(value_states)
        return self._show(*self._columns)

    @property
    def nbytes(self) -> int:
        return sum(columns.nbytes for columns in self._columns or ())

    def join(self, others: "PaddedLayer") -> None:
        """Put the rows of another layer under these."""
        if self._columns is None or others.keys is None or others.values is None:
            return
        self._columns[0].join(others.keys)
        self._columns[1].join(others.values)
        self._show(*self._columns)

    def keep(self, rows: list[int], columns: int) -> None:
        """Drop all other rows, and all but the last columns."""
        if self._columns is None:
            return
        index = torch.tensor(rows, device=self.device)
        for own in self._columns:
            own.keep(index, columns)
        self._show(*self._columns)

    def _show(self, keys: Columns, values: Columns) -> tuple[torch.Tensor, torch.Tensor]:
        """Where the library's methods look."""
        self.keys, self.values = keys.used, values.used
        return self.keys, self.values


class BatchCache(Cache):
    """What a model keeps of the sequences of a batch."""

    def __init__(self, config: Any) -> None:
        """`config` is the model's. Raises ValueError where a layer keeps what can't be joined."""
        own = DynamicCache(config=config)
        super().__init__(layers=[_joinable(layer) for layer in own.layers])

    @property
    def is_compileable(self) -> bool:
        """Shapes change."""
        return False

    @property
    def recurrent(self) -> bool:
        """Whether a layer keeps a state instead of columns: padding goes into it, and it takes one token at a time."""
        return any(isinstance(layer, LinearAttentionLayer) for layer in self.layers)

    @property
    def nbytes(self) -> int:
        """Of keys and values. May be called from another thread."""
        return sum(layer.nbytes for layer in self.layers if isinstance(layer, PaddedLayer))

    def join(self, others: "BatchCache") -> None:
        """Put the rows of another cache under these."""
        pairs: Iterable[tuple[Any, Any]] = zip(self.layers, others.layers, strict=True)  # of one kind each
        for layer, other in pairs:
            if isinstance(layer, PaddedLayer):
                layer.join(other)
            elif isinstance(layer, LinearAttentionLayer):
                _change_states(layer, lambda own, theirs: torch.cat([own, theirs]), other)

    def keep(self, rows: list[int], columns: int) -> None:
        """Drop all other rows, and all but the last columns."""
        for layer in self.layers:
            if isinstance(layer, PaddedLayer):
                layer.keep(rows, columns)
            elif isinstance(layer, LinearAttentionLayer):
                _change_states(layer, lambda own, _: own[rows], layer)


def _joinable(layer: Any) -> Any:
    """Our layer instead of the library's growing ones; one that keeps no columns stays as it is."""
    if type(layer) in (DynamicLayer, DynamicSlidingWindowLayer):
        return PaddedLayer()
    if type(layer) in (LinearAttentionLayer, DummyLayer):
        return layer
    raise ValueError(f"{type(layer).__name__} keeps what can't be joined")


def _change_states(
    layer: LinearAttentionLayer,
    change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    other: LinearAttentionLayer,
) -> None:
    """Replace each state [rows, …] of a layer by what `change` makes of it and the other layer's."""
    for own, theirs in (
        (layer.conv_states, other.conv_states),
        (layer.recurrent_states, other.recurrent_states),
    ):
        for index, state in own.items():
            their_state = theirs[index]
            if state is not None and their_state is not None:
                own[index] = change(state, their_state)
