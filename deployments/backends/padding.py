"""Inputs of different lengths as one rectangle of ids, made by numpy: what a transformer's forward pass reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from deployments.backends.base import Tokens


@dataclass(frozen=True, slots=True)
class Padding:
    """How a tokenizer fills up what is shorter than the longest input."""

    id: int = 0
    """Token id of the padding. Some models count positions by it."""
    left: bool = False
    """Padding goes before the tokens."""
    second_type: int = 0
    """Token type of a pair's second text."""


@dataclass(frozen=True, slots=True)
class PaddedBatch:
    """Three arrays [inputs, longest input], int64."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]
    """1: a token; 0: padding."""
    types: NDArray[np.int64]
    """Token types: `second_type` from where a pair's second text begins."""


def pad(batch: Sequence[Tokens], padding: Padding) -> PaddedBatch:
    lengths = np.fromiter((len(tokens.ids) for tokens in batch), np.int64, len(batch))[:, np.newaxis]
    longest = int(lengths.max())
    places = np.arange(longest)  # of each column, counted from its row's first token
    places = places - (longest - lengths) if padding.left else np.broadcast_to(places, (len(batch), longest))
    real = (places >= 0) & (places < lengths)
    ids = np.full((len(batch), longest), padding.id, np.int64)
    ids[real] = np.fromiter(chain.from_iterable(tokens.ids for tokens in batch), np.int64, int(lengths.sum()))
    types = np.zeros_like(ids)
    if padding.second_type:
        second = np.fromiter((tokens.second or longest for tokens in batch), np.int64, len(batch))[:, np.newaxis]
        types[real & (places >= second)] = padding.second_type
    return PaddedBatch(ids, real.astype(np.int64), types)
