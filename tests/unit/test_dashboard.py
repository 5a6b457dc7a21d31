"""The Grafana dashboard shows metrics that there are, by labels that they have."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.metrics import MetricWrapperBase

from deployments import metrics

DASHBOARD: dict[str, Any] = json.loads((Path(__file__).parents[2] / "configs" / "grafana-dashboard.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [(target["expr"], target["legendFormat"]) for panel in PANELS for target in panel["targets"]]
TABLE = {name: value for name, value in vars(metrics).items() if isinstance(value, MetricWrapperBase)}
SUFFIXES = {"counter": ["_total"], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}
LABELS = {
    metric.describe()[0].name + suffix: {*metric._labelnames, *(["le"] if suffix == "_bucket" else [])}
    for metric in TABLE.values()
    for suffix in SUFFIXES[metric._type]
}
"""Name of a sample → its labels."""


def names(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:manta|api)_\w+", expression))


@pytest.mark.parametrize(("expression", "legend"), QUERIES)
def test_a_query_asks_for_what_there_is(expression: str, legend: str) -> None:
    assert names(expression), "it asks for something"
    for name in names(expression):
        assert name in LABELS
        selected = re.findall(name + r"\{(\w+)[=!~]", expression)
        grouped = [label for group in re.findall(r"by \(([\w, ]+)\)", expression) for label in group.split(", ")]
        assert {*selected, *grouped} <= LABELS[name]
        assert set(re.findall(r"\{\{(\w+)\}\}", legend)) <= LABELS[name]


def test_it_shows_every_metric() -> None:
    shown = {name for expression, _ in QUERIES for name in names(expression)}
    missing = {
        name
        for name, metric in TABLE.items()
        if not any(metric.describe()[0].name + suffix in shown for suffix in SUFFIXES[metric._type])
    }
    assert missing == set()


def test_counters_are_shown_as_rates() -> None:
    for expression, _ in QUERIES:
        for name in re.findall(r"\b\w+_(?:total|bucket|count)\b", expression):
            assert re.search(rf"(rate|increase)\({name}\b", expression), f"{name} alone only ever grows"


def test_its_variables_are_the_data_source_and_the_models() -> None:
    source, model = DASHBOARD["templating"]["list"]
    assert (source["name"], source["type"]) == ("datasource", "datasource")
    assert {panel["datasource"]["uid"] for panel in PANELS} == {model["datasource"]["uid"]} == {"${datasource}"}
    assert names(model["definition"]) <= LABELS.keys()


def test_panels_have_ids_and_places_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in DASHBOARD["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24
