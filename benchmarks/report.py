"""Where benchmark figures go: a section of RESULTS.md between markers, and all raw numbers as JSON beside it."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.servers import ROOT

FOLDER = Path(__file__).parent


def percentile(values: Sequence[float], percent: float) -> float:
    """By linear interpolation between the closest ranks. `values`: at least one, in any order."""
    ranked = sorted(values)
    place = (len(ranked) - 1) * percent / 100
    low, high = ranked[math.floor(place)], ranked[math.ceil(place)]
    return low + (high - low) * (place - math.floor(place))


def circumstances() -> dict[str, Any]:
    """What the figures depend on besides the code: machine, versions, commit, command."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "-m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_before": os.getloadavg()[0],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "llama-cpp-python")},
    }


def headline(conditions: Mapping[str, Any]) -> str:
    """The first sentence over a table."""
    return (
        f"{conditions['time']}, commit `{conditions['commit']}`, {conditions['cpu']}, {conditions['cores']} cores, "
        f"load {conditions['load_before']:.1f} before."
    )


def say(line: str) -> None:
    """How far the benchmark is, for whoever waits: standard output is for its table."""
    print(line, file=sys.stderr, flush=True)


def write(name: str, table: str, data: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Put `table` into the section `name` of `folder`/RESULTS.md, and `data` into results/`name`.json."""
    results = folder / "results" / f"{name}.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(data, separators=(",", ":")) + "\n", encoding="utf-8")
    page = folder / "RESULTS.md"
    text = page.read_text(encoding="utf-8") if page.exists() else ""
    page.write_text(with_section(text, name, table), encoding="utf-8")


def with_section(text: str, name: str, body: str) -> str:
    """`text` with `body` between the markers of `name`; markers that aren't there are added at the end."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{body.strip()}\n{end}"
    before, found, rest = text.partition(begin)
    if not found:
        return f"{text.rstrip()}\n\n{section}\n".lstrip()
    _, closed, after = rest.partition(end)
    if not closed:
        raise ValueError(f"RESULTS.md: {begin} has no {end}")
    return before + section + after


def _commit() -> str:
    """The commit measured, with `+` where the tree has changes on top; empty outside git."""
    answer = subprocess.run(
        ["git", "describe", "--always", "--exclude=*", "--dirty=+"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return answer.stdout.strip()


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
