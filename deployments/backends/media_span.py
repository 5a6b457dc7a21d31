"""Pictures and sounds in a prompt: embedding rows where text has tokens."""

from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

PLANES = 4
"""Of M-RoPE's positions: time, height, width, and one to spare."""


@dataclass(frozen=True, slots=True, eq=False)
class MediaSpan:
    """The rows of a picture, of a part of it, or of a piece of a sound. Nothing is cut in two that stands in one."""

    start: int
    """Place of the first row in the prompt."""
    rows: NDArray[np.float32]
    """[rows, width]: what the decoder reads instead of the embeddings of tokens."""
    causal: bool = True
    """False: all rows attend to each other, so they must be decoded in one batch."""
    planes: NDArray[np.int32] | None = None
    """[PLANES, rows]: positions in an M-RoPE model. None: each row takes the next position, as a token does."""
    next_position: int = 0
    """Of what follows, where there are `planes`."""

    @property
    def stop(self) -> int:
        return self.start + len(self.rows)


def row_ids(content: bytes, count: int) -> list[int]:
    """Stand-ins for rows among token ids: negative, and equal for the same row of equal content alone.

    So whatever compares prompts by their ids compares pictures by their bytes.
    """
    first = -1 - (int.from_bytes(sha256(content).digest()) << 32)
    return [first - row for row in range(count)]
