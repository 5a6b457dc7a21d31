"""A library in a process of its own: jobs and answers are lines of JSON."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from benchmarks.servers import ROOT, environment

OFFLINE = {"HF_HUB_OFFLINE": "1"}


class LibraryProcess:
    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._usage = psutil.Process(process.pid)

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def cpu_seconds(self) -> float:
        times = self._usage.cpu_times()
        return float(times.user + times.system)


@contextmanager
def library_process(module: str, *arguments: str, threads: int) -> Iterator[LibraryProcess]:
    """`python -m <module> <arguments> <threads>`, once it has said by a line that its models are loaded."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments, str(threads)],
        cwd=ROOT,
        env=environment(threads, OFFLINE),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout
            process.stdout.readline()
            yield LibraryProcess(process)
        finally:
            process.terminate()
