"""What all processes have counted, as Prometheus reads it."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder

from deployments.metrics import REGISTRY
from deployments.samples import Key, Samples

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
"""Type of a metric → what its samples' names end with, in their order."""


def exposed(samples: Samples, accept: str) -> tuple[bytes, str]:
    """The text, and its media type: OpenMetrics' where `accept` (the header) names it, else Prometheus' own.

    Blocking: 10 µs for each sample (measured). Samples of metrics that the table does not know are left out.
    """
    encode, media_type = _encoder(accept)
    return encode(_Families(samples)), media_type


def _encoder(accept: str) -> tuple[Callable[["_Families"], bytes], str]:
    try:
        return choose_encoder(accept)
    except TypeError:  # what it names as a version is none
        return choose_encoder("")


class _Families:
    """The samples as a collector of prometheus_client, always in the same order."""

    def __init__(self, samples: Samples) -> None:
        self._by_name: dict[str, list[Key]] = defaultdict(list)
        for key in samples:
            self._by_name[key[0]].append(key)
        self._samples = samples

    def collect(self) -> Iterator[Metric]:
        for known in REGISTRY.collect():
            family = Metric(known.name, known.documentation, known.type)
            for name, labels in self._series(known.name, SUFFIXES[known.type]):
                family.add_sample(name, dict(labels), self._samples[name, labels])
            yield family

    def _series(self, family: str, suffixes: Iterable[str]) -> list[Key]:
        """Of one family: those of the same labels together, buckets by their bounds."""
        placed = [(place, key) for place, suffix in enumerate(suffixes) for key in self._by_name[family + suffix]]
        return [key for _, key in sorted(placed, key=_order)]


def _order(placed: tuple[int, Key]) -> tuple[list[str], int, float]:
    place, (_, labels) = placed
    bound = next((value for label, value in labels if label == "le"), "0")
    return [value for label, value in labels if label != "le"], place, float(bound)
