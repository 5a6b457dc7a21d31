"""Accounting of the KV cells that the sequences of one unified cache share."""

from collections.abc import Iterable


class _Run:
    """Neighbouring positions whose cells belong to the same sequences."""

    __slots__ = ("length", "refs")

    def __init__(self, length: int, refs: int) -> None:
        self.length = length
        self.refs = refs


class KVCells:
    """Which sequence holds how many cells. A copied prefix is held by both sequences and counted once.

    It follows llama.cpp's unified cache exactly: a token takes one cell, `seq_cp` adds an owner to cells, and a
    cell is free when its last owner leaves it.
    """

    def __init__(self, capacity: int, sequences: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._runs: list[list[_Run]] = [[] for _ in range(sequences)]

    @property
    def free(self) -> int:
        return self.capacity - self.used

    def length(self, sequence: int) -> int:
        """Positions that `sequence` holds, from 0 on without a gap."""
        return sum(run.length for run in self._runs[sequence])

    def extend(self, sequence: int, count: int) -> None:
        """`count` new tokens at the end of `sequence`."""
        runs = self._runs[sequence]
        if runs and runs[-1].refs == 1:
            runs[-1].length += count
        else:
            runs.append(_Run(count, 1))
        self.used += count

    def copy(self, source: int, target: int, length: int) -> None:
        """Share the first `length` positions of `source` with `target`, which must be empty."""
        self._cut(source, length)
        for run in self._runs[source]:
            if length == 0:
                return
            run.refs += 1
            self._runs[target].append(run)
            length -= run.length

    def trim(self, sequence: int, length: int) -> None:
        """Keep the first `length` positions of `sequence`."""
        self._cut(sequence, length)
        runs = self._runs[sequence]
        excess = sum(run.length for run in runs) - length
        while excess > 0:
            run = runs.pop()
            excess -= run.length
            run.refs -= 1
            if run.refs == 0:
                self.used -= run.length

    def held(self, sequences: Iterable[int], prefix: tuple[int, int] = (0, 0)) -> int:
        """Cells that at least one of `sequences` holds, or the first n positions of one more: `prefix` = (it, n)."""
        runs = {run for sequence in sequences for run in self._runs[sequence]}
        cells = sum(run.length for run in runs)
        sequence, length = prefix
        for run in self._runs[sequence]:
            if length <= 0:
                break
            if run not in runs:
                cells += min(run.length, length)
            length -= run.length
        return cells

    def _cut(self, sequence: int, position: int) -> None:
        """Make a run end at `position` of `sequence`, for all who share it."""
        for run in self._runs[sequence]:
            if position < run.length:
                break
            position -= run.length
        else:
            return
        if position == 0:
            return
        tail = _Run(run.length - position, run.refs)
        run.length = position
        for runs in self._runs:
            if run in runs:
                runs.insert(runs.index(run) + 1, tail)
