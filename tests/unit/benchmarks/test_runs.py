"""The table says what was measured."""

import json
from typing import Any

import pytest

from benchmarks.load import Stream
from benchmarks.runs import AIMS, COLUMNS, OURS, Run, as_json, table
from benchmarks.scenarios import SCENARIOS, Scenario
from benchmarks.servers import LAUNCHES

CONDITIONS: dict[str, Any] = {
    "time": "2026-11-23T15:00:00+00:00",
    "commit": "abc",
    "cpu": "a CPU",
    "cores": 2,
    "load_before": 0.1,
    "model": "m.gguf",
    "threads": 1,
    "tokens": 64,
    "rounds": 3,
    "versions": {"ray": "2.60.0"},
    "peers": {"versions": {"xllamacpp": "1"}},
    "idle_cores": {OURS: 0.12},
}
SHORT = Scenario("short x 8", words=16, streams=8)


def run(server: str, seconds: float, cpu_seconds: float | None = 2.0) -> Run:
    """One stream of 64 tokens: the first after 0.1 s, then 63 in 6.3 s."""
    stream = Stream(10.0, 10.0 + seconds, prompt_tokens=50, tokens=64, chunk_times=[10.1, 13.1, 16.4], text="…")
    return Run(0, SHORT.name, server, seconds, cpu_seconds, [stream])


def rows(runs: list[Run], scenario: Scenario = SHORT) -> dict[str, dict[str, str]]:
    """Server → column → cell."""
    names = list(dict.fromkeys(run.server for run in runs))
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table(runs, [scenario], names, CONDITIONS).splitlines()[4:]
    ]
    return {row[1]: dict(zip(COLUMNS, row, strict=True)) for row in cells}


def test_cells() -> None:
    row = rows([run(OURS, 8.0)])[OURS]
    assert list(row.values()) == [SHORT.name, OURS, "8.0", "100 / 100", "100.0", "3150.0 / 3297", "31.2", ""]


def test_ratio_is_the_median_of_rounds_each_against_its_own() -> None:
    ours, peer = [run(OURS, s) for s in (8.0, 4.0, 4.0)], [run("llama.cpp", s) for s in (8.0, 4.4, 3.6)]
    assert rows(ours + peer)["llama.cpp"]["Manta ÷ it"] == "1.00 (0.90–1.10), aim 0.95: met"


def test_a_missed_aim_is_said() -> None:
    assert rows([run(OURS, 8.0), run("llama.cpp", 4.0)])["llama.cpp"]["Manta ÷ it"].endswith("aim 0.95: **missed**")


@pytest.mark.parametrize(("streams", "aimed"), [(1, False), (8, True)])
def test_llama_cpp_python_is_to_be_beaten_where_it_queues(streams: int, aimed: bool) -> None:
    cell = rows([run(OURS, 4.0), run("llama-cpp-python", 8.0)], Scenario(SHORT.name, 16, streams))["llama-cpp-python"]
    assert ("aim" in cell["Manta ÷ it"]) is aimed


def test_a_server_of_unknown_process_has_no_cpu_figure() -> None:
    assert rows([run("llama.cpp", 8.0, cpu_seconds=None)])["llama.cpp"]["CPU ms/token"] == ""


def test_json_has_every_number() -> None:
    record = json.loads(json.dumps(as_json(run(OURS, 8.0))))
    assert record["streams"] == [{"prompt_tokens": 50, "tokens": 64, "finished": 8.0, "chunks": [0.1, 3.1, 6.4]}]
    assert (record["server"], record["seconds"], record["cpu_seconds"]) == (OURS, 8.0, 2.0)


def test_names_agree() -> None:
    assert set(AIMS) | {OURS} == set(LAUNCHES) | {"vllm"}  # which `benchmarks.vllm` launches
    assert len({scenario.name for scenario in SCENARIOS}) == len(SCENARIOS)
