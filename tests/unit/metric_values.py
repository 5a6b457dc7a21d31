"""What this process has counted so far.

Tests share its registry: they compare. Requests that other tests left behind end whenever they are collected.
"""

from deployments.metrics import REGISTRY

Series = tuple[str, tuple[tuple[str, str], ...]]


def values(*prefixes: str) -> dict[Series, float]:
    """Of the samples whose names begin so."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in REGISTRY.collect()
        for sample in family.samples
        if sample.name.startswith(prefixes)
    }


class Counted:
    """What is counted from now on, by some labels where they are given."""

    def __init__(self, *prefixes: str, **labels: str) -> None:
        self._prefixes = prefixes
        self._labels = labels.items()
        self._before = values(*prefixes)

    def more(self) -> dict[Series, float]:
        """What has changed, and by how much. Of histograms: how often."""
        now = values(*self._prefixes)
        changes = {series: value - self._before.get(series, 0.0) for series, value in now.items()}
        return {
            series: change
            for series, change in changes.items()
            if change and not series[0].endswith(("_bucket", "_sum")) and self._labels <= dict(series[1]).items()
        }


def labelled(name: str, **labels: str) -> Series:
    return name, tuple(sorted(labels.items()))


def total(name: str, **labels: str) -> float:
    """The sum of a histogram's observations so far."""
    return REGISTRY.get_sample_value(f"{name}_sum", labels) or 0.0
