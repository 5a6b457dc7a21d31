"""Who is asked what, and in which order."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.chat import idle_cores, measure, warm_up
from benchmarks.scenarios import Scenario
from benchmarks.servers import Server
from tests.unit.benchmarks.conftest import ChatStub

SCENARIOS = [Scenario("one", words=4, streams=1, repeats=2), Scenario("many", words=4, streams=3)]


def test_each_server_gets_the_same_prompts_and_goes_first_in_turn(stub: ChatStub) -> None:
    servers = [Server("a", stub.url), Server("b", stub.url)]
    runs = list(measure(servers, SCENARIOS, rounds=2, model="m", max_tokens=2))
    assert [(run.round, run.scenario, run.server) for run in runs] == [
        (0, "one", "a"), (0, "one", "b"), (0, "many", "b"), (0, "many", "a"),
        (1, "one", "b"), (1, "one", "a"), (1, "many", "a"), (1, "many", "b"),
    ]  # fmt: skip
    assert [len(run.streams) for run in runs] == [2, 2, 3, 3] * 2
    assert all(run.tokens == 2 * len(run.streams) and run.tokens_per_second > 0 for run in runs)
    asked = sorted(body["messages"][0]["content"] for body in stub.bodies)
    assert asked[::2] == asked[1::2], "the two servers got different prompts"


def test_warm_up_counts_the_prompt(stub: ChatStub) -> None:
    assert warm_up([Server("a", stub.url), Server("b", stub.url)], "m") == 7
    assert [body["stream"] for body in stub.bodies] == [False, True] * 2


def test_warm_up_refuses_servers_that_see_different_prompts(stub: ChatStub) -> None:
    stub.prompt_tokens = iter([7, 7, 8, 8])
    with pytest.raises(RuntimeError, match=r"differently: \{'a': 7, 'b': 8\}"):
        warm_up([Server("a", stub.url), Server("b", stub.url)], "m")


def test_warm_up_tells_a_refusal_in_the_servers_words(stub: ChatStub) -> None:
    stub.status = 500
    with pytest.raises(RuntimeError, match=r"a: status 500: .*usage"):
        warm_up([Server("a", stub.url)], "m")


def test_a_failure_names_server_and_scenario(stub: ChatStub, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("out of memory\n")
    stub.status = 500
    with pytest.raises(ExceptionGroup) as failure:
        list(measure([Server("a", stub.url, log=log)], SCENARIOS, rounds=1, model="m", max_tokens=2))
    assert failure.value.__notes__ == ["a, one:\nout of memory"]


def test_idle_is_watched_where_the_process_is_known() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        servers = [Server("busy", "", psutil.Process(busy.pid)), Server("elsewhere", "")]
        watched = idle_cores(servers, watch_s=0.3)
    finally:
        busy.kill()
        busy.wait()
    assert watched.keys() == {"busy"}
    assert watched["busy"] > 0
