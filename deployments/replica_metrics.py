"""What a model's engine says of itself, as metrics of its replica."""

from collections.abc import Mapping

from deployments.metrics import (
    BATCH_OCCUPANCY,
    BUSY_SLOTS,
    INSTANCE,
    KV_CACHE_BYTES,
    KV_CACHE_USAGE,
    MODEL_REPLICAS,
    QUEUE_LENGTH,
)

AMOUNTS = {QUEUE_LENGTH: "queued", BUSY_SLOTS: "slots_busy", KV_CACHE_BYTES: "kv_cache_bytes"}
"""Gauge → key of an engine's `stats`; not every engine has every key."""
RATIOS = {BATCH_OCCUPANCY: ("slots_busy", "slots"), KV_CACHE_USAGE: ("kv_cells_used", "kv_cells")}
"""Gauge → keys of the part and of the whole."""


class ReplicaMetrics:
    """The gauges of the one replica that this process is."""

    def __init__(self, model: str) -> None:
        self._labels = model, INSTANCE
        self._seen: Mapping[str, float] = {}
        MODEL_REPLICAS.labels(model).set(1)  # of one, and all are added up

    def observe(self, stats: Mapping[str, float]) -> None:
        """Nothing is recorded where nothing has changed."""
        if stats == self._seen:
            return
        self._seen = stats
        for gauge, key in AMOUNTS.items():
            if key in stats:
                gauge.labels(*self._labels).set(stats[key])
        for gauge, (part, whole) in RATIOS.items():
            if part in stats and stats.get(whole):
                gauge.labels(*self._labels).set(stats[part] / stats[whole])
