"""Run by vLLM in each of its processes (entry point `manta` of pyproject.toml): they must not outlive the replica."""

import ctypes
import os
import signal
import sys

REPLICA = "MANTA_VLLM_REPLICA"
"""Variable that holds the process id of the replica; unset in processes that are none of ours."""
_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def die_with_parent() -> None:
    """Have the kernel kill this process when the one that started it ends, however it ends. The replica itself isn't
    meant: Ray looks after it."""
    if sys.platform != "linux" or os.environ.get(REPLICA) in (None, str(os.getpid())):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
