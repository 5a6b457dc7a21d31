"""The table of metrics keeps Prometheus' conventions."""

import re

import pytest
from prometheus_client import Metric

from deployments import metrics
from deployments.metrics import OF_MACHINES, REGISTRY
from deployments.samples import TYPES

FAMILIES = {family.name: family for family in REGISTRY.collect()}
LOCALAI = "api_call"
"""LocalAI's name, which its dashboards ask for."""
BOUNDED = {
    *("method", "path", "route", "code", "task", "model", "key", "kind", "limit", "reason", "state", "phase"),
    *("process", "instance", "replica", "node", "gpu", "version"),
}
"""Labels whose values can't be many."""


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_names_and_help(family: Metric) -> None:
    name = family.name
    assert name == LOCALAI or re.fullmatch(r"manta(_[a-z]+)+", name)
    assert not re.search(r"_(total|count|sum|bucket|created)$", name), "the library appends these"
    assert not re.search(r"_(ms|milliseconds|minutes|mb|mib|kb|percent)(_|$)", name), "base units"
    assert family.documentation and not family.documentation.endswith(".")
    if family.type == "histogram":
        assert name == LOCALAI or name.endswith("_seconds")
    if name.endswith("_ratio"):
        assert family.type == "gauge"


def test_labels_are_bounded() -> None:
    made = [value for value in vars(metrics).values() if hasattr(value, "_labelnames")]
    assert len(made) == len(FAMILIES)
    for metric in made:
        assert set(metric._labelnames) <= BOUNDED, metric._name


def test_gauges_of_machines_are_gauges() -> None:
    assert {TYPES[name] for name in OF_MACHINES} == {"gauge"}


def test_one_process_is_told_from_another() -> None:
    """Gauges of which there is one in each process would else be added up."""
    assert re.fullmatch(r"[0-9a-f]{8}", metrics.INSTANCE)
