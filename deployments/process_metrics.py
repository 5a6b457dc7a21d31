"""Memory and CPU time of this process and its children, and memory of this machine's GPUs, as metrics."""

import asyncio
import logging
from contextlib import suppress

import psutil

from deployments import process_memory
from deployments.metrics import GPU_MEMORY_TOTAL, GPU_MEMORY_USED, INSTANCE, PROCESS_CPU, PROCESS_MEMORY
from deployments.samples import HEARTBEAT_S

logger = logging.getLogger("manta.metrics")


class ProcessMetrics:
    """Observes when it is told to."""

    def __init__(self, process: str, node: str) -> None:
        """`process`: what it is, such as `ingress`. `node`: id of the Ray node it runs on; empty: tell of no GPUs."""
        self._process = process
        self._node = node
        self._cpu_seconds = 0.0

    def observe(self) -> None:
        """Blocking, some milliseconds."""
        PROCESS_MEMORY.labels(self._process, INSTANCE).set(process_memory.held()["rss"])
        spent = max(self._cpu_seconds, _cpu_seconds())  # a child's time is lost when it dies and nobody waits for it
        PROCESS_CPU.labels(self._process).inc(spent - self._cpu_seconds)
        self._cpu_seconds = spent
        for gpu, (used, total) in enumerate(process_memory.gpus() if self._node else []):
            GPU_MEMORY_USED.labels(self._node, str(gpu)).set(used)
            GPU_MEMORY_TOTAL.labels(self._node, str(gpu)).set(total)


async def observe_for_ever(process: str, node: str) -> None:
    """As often as a process is to be heard of, in a thread."""
    metrics = ProcessMetrics(process, node)
    while True:
        try:
            await asyncio.to_thread(metrics.observe)
        except Exception:
            logger.exception("memory and CPU time could not be observed; the next try follows")
        await asyncio.sleep(HEARTBEAT_S)


def _cpu_seconds() -> float:
    """User and system time, that of children which ended included."""
    own = psutil.Process()
    seconds = 0.0
    for process in [own, *own.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # it ended while we looked
            times = process.cpu_times()
            seconds += times.user + times.system + times.children_user + times.children_system
    return seconds
