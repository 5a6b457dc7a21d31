"""One scrape of a running server has what all of its processes counted, the killed ones included."""

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.serving import Server, eventually

CHAT = "/v1/chat/completions"
CPU = "manta_process_cpu_seconds_total"
Counts = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scraped(client: httpx.Client) -> str | None:
    """None: this time there is no answer."""
    try:
        answer = client.get("/metrics")
    except httpx.TransportError:
        return None
    return answer.text if answer.status_code == 200 else None


def parsed(text: str, *, gauges: bool = False) -> Counts:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if gauges or family.type != "gauge"
    }


def value(counts: Counts, name: str, **labels: str) -> float:
    """The sum over all labels that aren't named."""
    return sum(n for (sample, told), n in counts.items() if sample == name and labels.items() <= set(told))


def chat(client: httpx.Client, **fields: Any) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}], **fields}
    assert client.post(CHAT, json=body).status_code == 200


def chats(counts: Counts) -> float:
    return value(counts, "manta_http_requests_total", method="POST", route=CHAT, code="200")


def test_no_count_goes_back_when_processes_are_killed(server: Server) -> None:
    seen: Counts = {}

    def scrape() -> Counts | None:
        if (text := scraped(client)) is None:
            return None
        counts = parsed(text)
        assert not {key: (n, counts.get(key)) for key, n in seen.items() if counts.get(key, 0.0) < n}
        seen.update(counts)
        return counts

    def counted() -> bool:
        """What was reported by the one ingress a second ago, and by the other one just now, is all there is."""
        counts = scrape()
        return counts is not None and chats(counts) == before + done

    with server.client() as client:
        client.post("/backend/shutdown", json={"model": "echo"})  # for a cold start that this controller counts
        before, done = chats(eventually(scrape)), 12
        for i in range(done):
            chat(client, stream=i % 2 == 0)
        eventually(counted)
        in_all = parsed(scraped(client) or "", gauges=True)
        assert value(in_all, "manta_http_requests_in_flight") == 0
        assert value(in_all, "manta_model_replicas", model="echo") == 1
        assert value(in_all, "manta_models", state="ready") >= 1
        assert value(in_all, "manta_cold_starts_total", model="echo") >= 1
        assert value(in_all, "manta_model_load_seconds_count", model="echo") >= 1
        assert value(in_all, "manta_completion_tokens_total", model="echo") >= 3 * done
        assert value(in_all, "manta_time_to_first_token_seconds_count", model="echo") >= done // 2
        assert value(in_all, "api_call_count", method="POST", path=CHAT) >= done
        assert value(in_all, "manta_build_info") == 1
        for process in ("ingress", "controller", "gallery", "model"):
            eventually(lambda process=process: value(scrape() or {}, CPU, process=process))

        (controller,) = server.processes("ServeReplica:api:ModelController")
        ingress, *_ = server.processes("ServeReplica:api:Ingress")
        replica = server.replica("echo")
        assert replica
        for process in (replica, ingress, controller):
            process.kill()
        eventually(lambda: len(server.processes("ServeReplica:api:Ingress")) == 2 and scrape())
        for _ in range(3):
            eventually(lambda: answered(client))
            done += 1
        eventually(counted)


def answered(client: httpx.Client) -> bool:
    """Also while the replica is made anew, but not by an ingress that has just been killed."""
    try:
        chat(client)
    except (httpx.TransportError, AssertionError):
        return False
    return True
