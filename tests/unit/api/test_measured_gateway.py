"""What is counted of requests for models."""

import asyncio
from contextlib import aclosing
from typing import Any

import pytest

from api.measured_gateway import MeasuredGateway
from deployments.backends.base import Delta, DeltaGroup, ModelCard, Scores, SegmentGroup, Task, TextResult, Vectors
from deployments.errors import EngineError, MantaError, ModelLoadFailed, ModelNotFound
from tests.unit.http_clients import AppFactory, http_client
from tests.unit.local_dispatch import USAGE, LocalDispatch
from tests.unit.metric_values import Counted, Series, labelled, total, values

MODEL = "counted"
"""Other tests don't use this name."""
SECONDS: dict[str, dict[str, str]] = {
    "manta_time_to_first_token_seconds": {},
    "manta_inter_token_seconds": {},
    "manta_request_seconds": {"task": "chat"},
}
"""Histograms of a chat's stream, and their labels beside the model."""


def tokens(prompt: int = 0, cached: int = 0, completion: int = 0) -> dict[Series, float]:
    counts = {"prompt": prompt, "cached_prompt": cached, "completion": completion}
    return {labelled(f"manta_{kind}_tokens_total", model=MODEL): count for kind, count in counts.items() if count}


def delta(*ids: int, index: int = 0) -> Delta:
    return Delta(index, "x" * len(ids), token_ids=list(ids))


@pytest.fixture
def measured(gateway: LocalDispatch) -> MeasuredGateway:
    return MeasuredGateway(gateway)


async def drained(gateway: MeasuredGateway, method: str = "stream_chat") -> list[Any]:
    return [item async for item in gateway.stream(MODEL, method, object())]


@pytest.mark.parametrize(
    ("method", "result", "counts"),
    [
        ("chat", TextResult([], USAGE), tokens(7, 3, 2)),
        ("embed", Vectors(b"", 0, prompt_tokens=5), tokens(5)),
        ("rerank", Scores([], prompt_tokens=6), tokens(6)),
        ("tokenize", [1, 2, 3], {}),
    ],
)
async def test_a_call_has_seconds_and_tokens(
    measured: MeasuredGateway, gateway: LocalDispatch, method: str, result: Any, counts: dict[Series, float]
) -> None:
    counted = Counted("manta", model=MODEL)
    gateway.result = result
    assert await measured.call(MODEL, method, object()) is result
    assert counted.more() == {labelled("manta_request_seconds_count", model=MODEL, task=method): 1, **counts}


@pytest.mark.parametrize(
    ("error", "code"),
    [(EngineError("x"), "engine_error"), (ModelLoadFailed("x"), "model_load_failed"), (KeyError("x"), MantaError.code)],
)
async def test_errors_are_counted_by_their_code_and_raised(
    measured: MeasuredGateway, gateway: LocalDispatch, error: Exception, code: str
) -> None:
    counted = Counted("manta", model=MODEL)
    gateway.result = error
    gateway.script = [error]
    with pytest.raises(type(error)):
        await measured.call(MODEL, "chat", object())
    with pytest.raises(type(error)):
        await drained(measured)
    assert counted.more() == {labelled("manta_request_errors_total", model=MODEL, code=code): 2}


async def test_a_stream_has_its_first_token_and_the_gaps_between_the_others(
    measured: MeasuredGateway, gateway: LocalDispatch
) -> None:
    counted = Counted("manta", model=MODEL)
    gateway.script = [
        DeltaGroup([Delta(0, "the prompt, said back")]),
        DeltaGroup([delta(1), delta(1, index=1)]),
        DeltaGroup([delta(2, 3, 4), delta(2, index=1)]),
        DeltaGroup([delta(5)]),
        DeltaGroup([Delta(0, "", "stop"), Delta(1, "", "stop")], USAGE),
    ]
    assert await drained(measured) == gateway.script
    assert counted.more() == {
        labelled("manta_time_to_first_token_seconds_count", model=MODEL): 1,
        labelled("manta_inter_token_seconds_count", model=MODEL): 5,
        labelled("manta_request_seconds_count", model=MODEL, task="chat"): 1,
        **tokens(7, 3, 2),
    }


async def test_a_gap_is_between_tokens_of_one_choice(gateway: LocalDispatch) -> None:
    """Choice 0 has a token after 2 s and its next four a second later: 0.25 s each. Of choice 1 there is only one."""
    clock = iter([10.0, 10.0, 12.0, 12.5, 13.0, 20.0])  # it begins (looked up twice), three groups, it ends
    measured = MeasuredGateway(gateway, lambda: next(clock))
    gateway.script = [DeltaGroup([delta(1)]), DeltaGroup([delta(1, index=1)]), DeltaGroup([delta(2, 3, 4, 5)])]
    before = {name: total(name, model=MODEL, **labels) for name, labels in SECONDS.items()}
    await drained(measured)
    seconds = {name: total(name, model=MODEL, **labels) - before[name] for name, labels in SECONDS.items()}
    assert seconds == {
        "manta_time_to_first_token_seconds": pytest.approx(2),
        "manta_inter_token_seconds": pytest.approx(4 * 0.25),
        "manta_request_seconds": pytest.approx(10),
    }
    assert values("manta_inter")[labelled("manta_inter_token_seconds_bucket", model=MODEL, le="0.25")] >= 4


async def test_of_who_leaves_the_tokens_count_that_were_written(
    measured: MeasuredGateway, gateway: LocalDispatch
) -> None:
    counted = Counted("manta", model=MODEL)
    gateway.script = [DeltaGroup([delta(1)]), DeltaGroup([delta(2, 3)]), asyncio.Event()]
    async with aclosing(measured.stream(MODEL, "stream_chat", object())) as groups:
        await anext(groups)
        await anext(groups)
    assert gateway.ended.is_set(), "the replica's stream was closed"
    assert counted.more() == {
        labelled("manta_time_to_first_token_seconds_count", model=MODEL): 1,
        labelled("manta_inter_token_seconds_count", model=MODEL): 2,
        **tokens(completion=3),
    }


async def test_pieces_of_vectors_count_as_they_come(measured: MeasuredGateway, gateway: LocalDispatch) -> None:
    counted = Counted("manta", model=MODEL)
    gateway.script = [Vectors(b"", 0, prompt_tokens=5), Vectors(b"", 0, prompt_tokens=6)]
    await drained(measured, "stream_embed")
    assert counted.more() == {labelled("manta_request_seconds_count", model=MODEL, task="embed"): 1, **tokens(11)}


async def test_other_streams_have_seconds_only(measured: MeasuredGateway, gateway: LocalDispatch) -> None:
    counted = Counted("manta", model=MODEL)
    gateway.script = [SegmentGroup([])]
    await drained(measured, "stream_transcribe")
    assert counted.more() == {labelled("manta_request_seconds_count", model=MODEL, task="transcribe"): 1}


async def test_routes_go_through_it_and_count_by_the_model_s_own_name(
    make_app: AppFactory, gateway: LocalDispatch
) -> None:
    gateway.installed = [
        ModelCard("nickname", [Task.CHAT], 0, "echo", alias_of=MODEL),
        ModelCard(MODEL, [Task.CHAT], 0, "echo"),
    ]
    counted = Counted("manta", model=MODEL)
    async with http_client(make_app()) as client:
        for name in (MODEL, "nickname", "nobody/knows"):
            await client.post("/v1/completions", json={"prompt": "x", "model": name})
    assert counted.more() == {
        labelled("manta_request_seconds_count", model=MODEL, task="complete"): 2,
        **tokens(14, 6, 4),
    }
    labels = [dict(labels) for _, labels in values("manta_")]
    assert not any("nickname" in each.values() or "nobody/knows" in each.values() for each in labels)


async def test_the_rest_is_the_other_gateway_s(measured: MeasuredGateway, gateway: LocalDispatch) -> None:
    gateway.errors, gateway.not_ready = {"x.yaml": "bad"}, "starting"
    assert measured.cards() == gateway.cards()
    assert await measured.reload() == {"x.yaml": "bad"}
    assert measured.ready() == "starting"
    with pytest.raises(ModelNotFound):
        measured.resolve("nobody", gateway.cards()[0].tasks[0])


async def test_large_and_merged_are_passed_on(make_app: AppFactory, gateway: LocalDispatch) -> None:
    measured = MeasuredGateway(gateway)
    await measured.call(MODEL, "chat", object(), large=True)
    assert gateway.large
    assert isinstance(await measured.call(MODEL, "chat", object(), merged=True), TextResult)
