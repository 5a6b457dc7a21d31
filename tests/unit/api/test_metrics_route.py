"""GET /metrics: its text, in both formats, with keys, without a controller, and switched off."""

import httpx
import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from api.answers.metrics import exposed
from deployments.errors import NotReady
from deployments.metrics import COLD_STARTS, MODEL_LOAD_SECONDS, REGISTRY, SLOW
from deployments.samples import Recorder, Samples
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_cluster import LocalCluster

OPENMETRICS = "application/openmetrics-text; version=1.0.0, text/plain;q=0.5"


async def test_a_scrape_has_every_metric_of_the_table(client: httpx.AsyncClient) -> None:
    MODEL_LOAD_SECONDS.labels("scraped").observe(0.3)
    answer = await client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4; charset=utf-8")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    known = {family.name: family for family in REGISTRY.collect()}
    assert families.keys() == known.keys()
    for name, family in families.items():
        assert (family.type, family.documentation) == (known[name].type, known[name].documentation)
    loads = [s for s in families["manta_model_load_seconds"].samples if s.labels["model"] == "scraped"]
    buckets = [s for s in loads if s.name.endswith("_bucket")]
    assert [float(s.labels["le"]) for s in buckets] == [*SLOW, float("inf")]
    assert [s.value for s in buckets] == [float(bound >= 0.3) for bound in (*SLOW, float("inf"))]
    assert [(s.name.rpartition("_")[2], s.value) for s in loads[-2:]] == [("sum", 0.3), ("count", 1)]


async def test_openmetrics_for_who_asks_for_it(client: httpx.AsyncClient) -> None:
    COLD_STARTS.labels('a "quoted" \\ name\n').inc()
    answer = await client.get("/metrics", headers={"Accept": OPENMETRICS})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert answer.text.endswith("# EOF\n")
    families = {family.name: family for family in openmetrics.text_string_to_metric_families(answer.text)}
    assert 'a "quoted" \\ name\n' in {s.labels["model"] for s in families["manta_cold_starts"].samples}


@pytest.mark.parametrize("accept", ["application/openmetrics-text; version=abc", "text/plain; version=", ";;,=", "*/*"])
async def test_an_odd_accept_is_answered_in_prometheus_own_format(client: httpx.AsyncClient, accept: str) -> None:
    answer = await client.get("/metrics", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")


def test_the_same_samples_make_the_same_text() -> None:
    for model in ("b", "a", "c"):
        MODEL_LOAD_SECONDS.labels(model).observe(1)
    samples = Recorder().snapshot().samples
    backwards: Samples = dict(reversed(samples.items()))
    assert exposed(samples, "") == exposed(backwards, "")
    assert exposed(samples | {("of_an_older_version_total", ()): 1.0}, "") == exposed(samples, "")


async def test_a_key_is_needed_where_there_are_keys(make_app: AppFactory) -> None:
    async with http_client(make_app(api_keys=["secret"])) as client:
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.get("/metrics", headers={"Authorization": "Bearer secret"})).status_code == 200


async def test_no_controller_no_stale_answer(client: httpx.AsyncClient, cluster: LocalCluster) -> None:
    async def away() -> Samples:
        raise NotReady("away").after(5)

    cluster.metrics = away  # type: ignore[method-assign]
    answer = await client.get("/metrics")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_it_can_be_switched_off(make_app: AppFactory) -> None:
    async with http_client(make_app(disable_metrics_endpoint=True)) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert "/metrics" not in (await client.get("/openapi.json")).json()["paths"]
