"""Every metric of the service. Each process counts its own part; the controller adds them up for /metrics.

Names follow Prometheus' conventions: base units, `_total` (which the library appends) for counters. Values of labels
are bounded: names of installed models and of API keys, routes as templates, codes of `deployments/errors.py`.
"""

import uuid
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # a time for each series: nobody asks for it

REGISTRY = CollectorRegistry()
"""Of this process."""

INSTANCE = uuid.uuid4().hex[:8]
"""This process, as the labels `instance` and `replica` name it."""

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Buckets, in seconds, for what takes milliseconds."""
SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""For what may take minutes."""


@dataclass(slots=True)
class Changes:
    """Who remembers the number knows later whether there is anything new."""

    made: int = 0  # one may get lost between threads, until the next


CHANGES = Changes()
"""Of this process's metrics."""


class _Counter(Counter):
    def inc(self, amount: float = 1, exemplar: dict[str, str] | None = None) -> None:
        super().inc(amount, exemplar)
        CHANGES.made += 1


class _Gauge(Gauge):
    def inc(self, amount: float = 1) -> None:
        super().inc(amount)
        CHANGES.made += 1

    def dec(self, amount: float = 1) -> None:
        super().dec(amount)
        CHANGES.made += 1

    def set(self, value: float) -> None:
        super().set(value)
        CHANGES.made += 1


class _Histogram(Histogram):
    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        super().observe(amount, exemplar)
        CHANGES.made += 1


def _counter(name: str, about: str, *labels: str) -> Counter:
    return _Counter(name, about, labels, registry=REGISTRY)


def _gauge(name: str, about: str, *labels: str) -> Gauge:
    return _Gauge(name, about, labels, registry=REGISTRY)


def _histogram(name: str, about: str, *labels: str, buckets: tuple[float, ...]) -> Histogram:
    return _Histogram(name, about, labels, buckets=buckets, registry=REGISTRY)


# ---- ingresses -------------------------------------------------------------------------------------------------------

API_CALL = _histogram("api_call", "API calls, in seconds (LocalAI's)", "method", "path", buckets=SLOW)
HTTP_REQUESTS = _counter("manta_http_requests", "HTTP requests by their route's template", "method", "route", "code")
HTTP_IN_FLIGHT = _gauge("manta_http_requests_in_flight", "HTTP requests that are being answered", "instance")

REQUEST_SECONDS = _histogram("manta_request_seconds", "A model's whole answer", "model", "task", buckets=SLOW)
REQUEST_ERRORS = _counter("manta_request_errors", "Requests for a model that ended in an error", "model", "code")
FIRST_TOKEN_SECONDS = _histogram(
    "manta_time_to_first_token_seconds", "From a streamed request's arrival to its first token", "model", buckets=SLOW
)
INTER_TOKEN_SECONDS = _histogram("manta_inter_token_seconds", "Between the tokens of a stream", "model", buckets=FAST)
PROMPT_TOKENS = _counter("manta_prompt_tokens", "Tokens that models read", "model")
CACHED_PROMPT_TOKENS = _counter("manta_cached_prompt_tokens", "Of them, those found in the KV cache", "model")
COMPLETION_TOKENS = _counter("manta_completion_tokens", "Tokens that models wrote", "model")

KEY_REQUESTS = _counter("manta_key_requests", "Requests by API key", "key")
KEY_TOKENS = _counter("manta_key_tokens", "Tokens by API key; kind: prompt or completion", "key", "kind")
RATE_LIMITED = _counter(
    "manta_rate_limited", "Requests refused for their key's limit: requests or tokens", "key", "limit"
)

# ---- model replicas --------------------------------------------------------------------------------------------------

QUEUE_SECONDS = _histogram(
    "manta_queue_seconds", "From a request's arrival until its engine begins", "model", buckets=SLOW
)
QUEUE_LENGTH = _gauge("manta_queue_length", "Requests that wait in a replica", "model", "replica")
BUSY_SLOTS = _gauge("manta_busy_slots", "Requests that a replica is working on", "model", "replica")
BATCH_OCCUPANCY = _gauge("manta_batch_occupancy_ratio", "Busy slots of all slots", "model", "replica")
KV_CACHE_USAGE = _gauge("manta_kv_cache_usage_ratio", "Taken cells of the KV cache", "model", "replica")
KV_CACHE_BYTES = _gauge("manta_kv_cache_bytes", "Size of the KV cache", "model", "replica")

# ---- controller ------------------------------------------------------------------------------------------------------

MODEL_LOAD_SECONDS = _histogram("manta_model_load_seconds", "Loads of a model that went well", "model", buckets=SLOW)
MODEL_LOAD_FAILURES = _counter("manta_model_load_failures", "Loads of a model that failed", "model")
COLD_STARTS = _counter("manta_cold_starts", "Loads that a request had to wait for", "model")
EVICTIONS = _counter(
    "manta_model_evictions", "Models unloaded for another's sake; reason: count or memory", "model", "reason"
)
MODEL_REPLICAS = _gauge("manta_model_replicas", "Replicas of a loaded model", "model")
MODELS = _gauge("manta_models", "Installed models by state", "state")

# ---- gallery ---------------------------------------------------------------------------------------------------------

GALLERY_BYTES = _counter("manta_gallery_downloaded_bytes", "Bytes that the gallery downloaded")
GALLERY_JOBS = _gauge("manta_gallery_jobs", "Jobs that have not ended, by phase", "phase")
GALLERY_JOBS_ENDED = _counter("manta_gallery_jobs_ended", "Jobs by how they ended", "kind", "phase")

# ---- all processes ---------------------------------------------------------------------------------------------------

PROCESS_MEMORY = _gauge(
    "manta_process_resident_memory_bytes", "Memory of a process and its children", "process", "instance"
)
PROCESS_CPU = _counter("manta_process_cpu_seconds", "CPU time of processes", "process")
GPU_MEMORY_USED = _gauge("manta_gpu_memory_used_bytes", "Memory of a GPU that is taken", "node", "gpu")
GPU_MEMORY_TOTAL = _gauge("manta_gpu_memory_bytes", "Memory of a GPU", "node", "gpu")
BUILD_INFO = _gauge("manta_build_info", "Always 1", "version")

OF_MACHINES = frozenset({"manta_gpu_memory_used_bytes", "manta_gpu_memory_bytes"})
"""Gauges of which each process of a machine tells the same: the greatest counts. All others are added up."""
