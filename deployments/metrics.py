"""Every metric of the service. Each process counts its own part; the controller adds them up for /metrics.

Names follow Prometheus' conventions: base units, `_total` for counters. Values of labels are bounded: names of
installed models and of API keys, routes as templates, codes of `deployments/errors.py`.
"""

from prometheus_client import CollectorRegistry, Counter, Histogram

REGISTRY = CollectorRegistry()
"""Of this process."""

FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Buckets, in seconds, for what takes milliseconds."""
SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
"""For what may take minutes."""

API_CALL = Histogram(
    "api_call", "API calls, in seconds (LocalAI's)", ["method", "path"], buckets=SLOW, registry=REGISTRY
)

KEY_REQUESTS = Counter("manta_key_requests", "Requests by API key", ["key"], registry=REGISTRY)
KEY_TOKENS = Counter(
    "manta_key_tokens", "Tokens by API key; kind: prompt or completion", ["key", "kind"], registry=REGISTRY
)
RATE_LIMITED = Counter(
    "manta_rate_limited",
    "Requests refused for their key's limit; limit: requests or tokens",
    ["key", "limit"],
    registry=REGISTRY,
)

EVICTIONS = Counter(
    "manta_model_evictions", "Models unloaded for another's sake", ["model", "reason"], registry=REGISTRY
)
