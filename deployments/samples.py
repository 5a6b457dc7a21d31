"""What processes have counted, as dictionaries that cross from one to another: taken, told apart, and added up."""

import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field

from deployments.metrics import CHANGES, OF_MACHINES, REGISTRY

HEARTBEAT_S = 15.0
"""A process tells what it has counted this often, though nothing changed: it lives."""

Key = tuple[str, tuple[tuple[str, str], ...]]
"""A sample's name, and its labels with their values."""
Samples = dict[Key, float]

TYPES = {family.name: family.type for family in REGISTRY.collect()}
"""Metric → counter, gauge or histogram."""


@dataclass(slots=True)
class Snapshot:
    """All that one process has counted up to a moment."""

    source: str
    """The process, by a name that none has again."""
    number: int
    """Grows from one to the next of a process: they may overtake each other on their ways."""
    samples: Samples = field(default_factory=dict)

    def counts(self) -> "Snapshot":
        """What stays when the process has ended."""
        return Snapshot(self.source, self.number, counts(self.samples))


class Recorder:
    """Takes this process's snapshots."""

    def __init__(self) -> None:
        self._source = uuid.uuid4().hex
        self._told = -1, float("-inf")  # the changes that had been made by then, and when

    def snapshot(self) -> Snapshot:
        """As things stand. O(samples): 3 µs for each (measured)."""
        samples = {
            (sample.name, tuple(sample.labels.items())): sample.value
            for family in REGISTRY.collect()
            for sample in family.samples
        }
        return Snapshot(self._source, time.monotonic_ns(), samples)

    def news(self) -> Snapshot | None:
        """A snapshot, where something has changed since the last one of these, or HEARTBEAT_S have passed."""
        made, (told, told_at) = CHANGES.made, self._told
        if made == told and time.monotonic() - told_at < HEARTBEAT_S:
            return None
        self._told = made, time.monotonic()
        return self.snapshot()


def counts(samples: Samples) -> Samples:
    """Without gauges, which say nothing when their process has ended."""
    return {key: value for key, value in samples.items() if TYPES.get(key[0]) != "gauge"}


def added(parts: Iterable[Samples]) -> Samples:
    """The sums of samples that have the same name and labels; of what is a machine's, the greatest."""
    total: Samples = {}
    for samples in parts:
        for key, value in samples.items():
            before = total.get(key, 0.0)
            total[key] = max(before, value) if key[0] in OF_MACHINES else before + value
    return total
